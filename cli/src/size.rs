//! Sizes as people write them: `10GiB`, `512M`, `4096`.
use std::fmt;
use std::str::FromStr;

const UNITS: [(&str, u64); 5] =
    [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("PiB", 1 << 50)];

/// A number of bytes that reads and prints with binary units.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// Why a text is not a size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadSize(String);

impl fmt::Display for BadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for BadSize {}

impl FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Size, BadSize> {
        let example = "write a size like 10GiB, 512MiB or 1.5TiB";
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..split], text[split..].trim());
        if number.is_empty() {
            return Err(BadSize(format!("'{text}' does not begin with a number: {example}")));
        }
        let factor = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "ki" | "kib" => 1 << 10,
            "m" | "mi" | "mib" => 1 << 20,
            "g" | "gi" | "gib" => 1 << 30,
            "t" | "ti" | "tib" => 1 << 40,
            "p" | "pi" | "pib" => 1u64 << 50,
            "kb" | "mb" | "gb" | "tb" | "pb" => {
                return Err(BadSize(format!(
                    "sizes are counted in powers of 1024: instead of '{unit}' {example}"
                )));
            }
            _ => return Err(BadSize(format!("'{unit}' is no unit of size: {example}"))),
        };
        let too_large = || BadSize(format!("'{text}' is larger than anything: {example}"));
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Size).ok_or_else(too_large);
        }
        if number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(too_large());
        }
        let bytes =
            number.parse::<f64>().map_err(|_| BadSize(format!("'{number}' is no number: {example}")))?
                * factor as f64;
        if bytes >= u64::MAX as f64 {
            return Err(too_large());
        }
        if bytes.fract() != 0.0 {
            return Err(BadSize(format!("'{text}' is not a whole number of bytes: {example}")));
        }
        Ok(Size(bytes as u64))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match UNITS.iter().rev().find(|(_, bytes)| self.0 >= *bytes) {
            None => format!("{} B", self.0),
            Some((unit, bytes)) if self.0.is_multiple_of(*bytes) => format!("{} {unit}", self.0 / bytes),
            Some((unit, bytes)) => format!("{:.1} {unit}", self.0 as f64 / *bytes as f64),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [
            ("10GiB", 10 << 30),
            ("10 GiB", 10 << 30),
            ("512M", 512 << 20),
            ("4096", 4096),
            ("1.5TiB", 3 << 39),
            ("0", 0),
            ("1k", 1024),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in [
            "",
            "GiB",
            "10GB",
            "10 parsecs",
            "1.0000001",
            "99999999999999999999",
            "20000000TiB",
            "1.2.3G",
            "-1G",
        ] {
            let why = text.parse::<Size>().expect_err(text).to_string();
            assert!(why.contains("10GiB"), "{text}: {why}");
        }
    }

    #[test]
    fn sizes_print_in_the_largest_unit_that_fits() {
        assert_eq!(Size(10 << 30).to_string(), "10 GiB");
        assert_eq!(Size(1536 << 20).to_string(), "1.5 GiB");
        assert_eq!(Size(17).to_string(), "17 B");
    }
}
