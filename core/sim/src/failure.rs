//! How a run fails: where the checker that objects stands, and what it says.
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// File and line.
    pub place: String,
    /// Its words.
    pub says: String,
}

impl Failure {
    /// Whether it is the same checker that objects, to something of the same kind. Which block it was, and when, is luck.
    pub fn is_like(&self, other: &Failure) -> bool {
        self.place == other.place
    }
}

thread_local! {
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on it is kept where each thread panicked last; with `is_loud` it is told as ever.
pub fn watch(is_loud: bool) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        PLACE.with(|kept| *kept.borrow_mut() = place);
        if is_loud {
            usual(info);
        }
    }));
}

/// What `run` comes to, or how it fails: where, once [`watch`] was called.
///
/// # Errors
/// If it panics.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|why| {
        let says = why.downcast_ref::<String>().map(String::as_str);
        let says = says.or(why.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        Failure { place: PLACE.with(|kept| kept.borrow().clone()), says: says.to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_alike_when_the_same_check_fails() {
        watch(true);
        let fail = |n: u32, limit: u32| caught(|| assert!(n < limit, "{n} is beyond {limit}")).unwrap_err();
        let (one, two) = (fail(3, 1), fail(7, 2));
        assert_eq!((one.says.as_str(), two.says.as_str()), ("3 is beyond 1", "7 is beyond 2"));
        assert!(one.is_like(&two));
        assert!(one.place.contains("failure.rs:"), "{}", one.place);
        let other = caught(|| panic!("3 is beyond 1")).unwrap_err();
        assert!(!one.is_like(&other));
        assert_eq!(caught(|| 5), Ok(5));
    }
}
