//! What must be met and what is aimed for, beside what was measured: the report's last part.
use serde::Serialize;
use std::fmt;

/// Which way a figure is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Costs.
    Lower,
    /// What is reached.
    Higher,
}

/// What a figure is held against.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Bound {
    /// Which way is better.
    pub better: Better,
    /// What it must meet.
    pub must: f64,
    /// What is aimed for.
    pub aim: f64,
}

impl Bound {
    /// At most so much.
    pub const fn at_most(must: f64, aim: f64) -> Bound {
        Bound { better: Better::Lower, must, aim }
    }

    /// At least so much.
    pub const fn at_least(must: f64, aim: f64) -> Bound {
        Bound { better: Better::Higher, must, aim }
    }

    fn is_met(self, value: f64, bound: f64) -> bool {
        match self.better {
            Better::Lower => value <= bound,
            Better::Higher => value >= bound,
        }
    }
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Where drives were: memory, disk.
    pub place: String,
    /// What was measured, in words.
    pub what: String,
    /// It; nothing where this run could not tell.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: &'static str,
    /// What it is held against; nothing where it is only told.
    pub bound: Option<Bound>,
    /// Floors, peers, sizes: what has to be known to read it.
    pub beside: String,
}

/// All figures of a run.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    /// What they were measured on.
    pub machine: String,
    /// In the order they came.
    pub figures: Vec<Figure>,
}

impl Table {
    /// Adds one.
    pub fn add(
        &mut self,
        place: &str,
        what: impl Into<String>,
        value: impl Into<Option<f64>>,
        unit: &'static str,
        bound: impl Into<Option<Bound>>,
        beside: impl Into<String>,
    ) {
        self.figures.push(Figure {
            place: place.to_owned(),
            what: what.into(),
            // a division by nothing is no figure
            value: value.into().filter(|v| v.is_finite()),
            unit,
            bound: bound.into(),
            beside: beside.into(),
        });
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match self.value {
            Some(value) => format!("{} {}", number(value), self.unit),
            None => "not known".to_owned(),
        };
        let judge = |name: &str, bound: f64| {
            let met = match (self.value, self.bound) {
                (Some(value), Some(b)) if b.is_met(value, bound) => "yes",
                (Some(_), Some(_)) => "NO",
                _ => "?",
            };
            let sign = if self.bound.is_some_and(|b| b.better == Better::Lower) { "<=" } else { ">=" };
            format!("{name} {sign} {} {met}", number(bound))
        };
        let (must, aim) = match self.bound {
            Some(b) => (judge("must", b.must), judge("aim", b.aim)),
            None => (String::new(), String::new()),
        };
        let (place, what) = (&self.place, &self.what);
        write!(f, "{place:<7} {what:<58} {value:>14}  {must:<18} {aim:<18} {}", self.beside)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== all figures: {}", self.machine)?;
        self.figures.iter().try_for_each(|figure| writeln!(f, "{}", figure.to_string().trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(value: Option<f64>, bound: Bound) -> String {
        let mut table = Table::default();
        table.add("disk", "writes", value, "µs", bound, "floor 1");
        table.figures[0].to_string()
    }

    #[test]
    fn bounds_are_met_from_their_own_side() {
        let text = line(Some(100.0), Bound::at_most(110.0, 85.0));
        assert!(text.contains("must <= 110 yes") && text.contains("aim <= 85.0 NO"), "{text}");
        let text = line(Some(1.6), Bound::at_least(1.5, 2.0));
        assert!(text.contains("must >= 1.50 yes") && text.contains("aim >= 2.00 NO"), "{text}");
    }

    #[test]
    fn what_is_not_known_meets_nothing() {
        let text = line(None, Bound::at_most(1.0, 1.0));
        assert!(text.contains("not known") && text.contains("must <= 1.00 ?"), "{text}");
        assert!(line(Some(f64::NAN), Bound::at_most(1.0, 1.0)).contains("not known"));
    }
}
