//! Lists of numbers as a command line has them: `3,7,9-12`.

/// Numbers in ascending order, neighbours as a range.
pub fn written(numbers: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => ranges.push((n, n)),
        }
    }
    let one = |&(first, last): &(usize, usize)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(",")
}

/// What [`written`] wrote; `none`, or nothing, is no number.
///
/// # Errors
/// If it is something else: says what.
pub fn read(text: &str) -> Result<Vec<usize>, String> {
    let number = |t: &str| t.parse::<usize>().map_err(|why| format!("{t}: {why}"));
    let mut all = Vec::new();
    for range in text.split(',').filter(|t| !t.is_empty() && *t != "none") {
        match range.split_once('-') {
            Some((first, last)) => all.extend(number(first)?..=number(last)?),
            None => all.push(number(range)?),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (numbers, text) in [
            (vec![], ""),
            (vec![0], "0"),
            (vec![3, 7, 9, 10, 11, 12], "3,7,9-12"),
            (vec![0, 1, 3, 4], "0-1,3-4"),
        ] {
            assert_eq!(written(&numbers), text);
            assert_eq!(read(text), Ok(numbers));
        }
        assert_eq!(read("none"), Ok(vec![]));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["x", "3,-", "1-x", "-4"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
