//! What happened in a run, in words: each thing with its time and what it is about, and of all that what matters to the verdict.
use crate::check::Key;
use sarsen_types::{BlockRange, GroupId, Instant};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

/// What something is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum About {
    /// The cluster: it matters to all.
    Cluster,
    /// A group's state.
    Group(GroupId),
    /// Blocks of a chunk that a client asks for, in a group.
    Blocks(GroupId, Key, Range<u16>),
}

/// What a checker looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A block.
    Block(Key),
    /// A group.
    Group(GroupId),
}

/// Something that happened.
#[derive(Clone, Debug)]
struct Told {
    at: Instant,
    about: About,
    text: String,
    /// How it ended, and when.
    end: Option<(Instant, String)>,
}

/// See the module.
#[derive(Default)]
pub struct Story {
    told: Option<RefCell<Vec<Told>>>,
    /// Which request a content came from.
    values: RefCell<BTreeMap<u64, usize>>,
    /// What a checker looked at last.
    subject: Cell<Option<Subject>>,
}

impl Story {
    /// One that is told; others are not kept.
    pub fn begun() -> Story {
        Story { told: Some(RefCell::default()), ..Story::default() }
    }
    /// Whether it is told.
    pub fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// Something happened. Gives its number, for [`Story::ended`].
    pub fn tell(&self, at: Instant, about: About, text: impl FnOnce() -> String) -> Option<usize> {
        let mut told = self.told.as_ref()?.borrow_mut();
        told.push(Told { at, about, text: text(), end: None });
        Some(told.len() - 1)
    }
    /// Something that was told ended so.
    pub fn ended(&self, number: Option<usize>, at: Instant, text: impl FnOnce() -> String) {
        if let (Some(told), Some(number)) = (&self.told, number) {
            told.borrow_mut()[number].end = Some((at, text()));
        }
    }

    /// A request wrote this: it is called by the request's number from now on.
    pub fn name(&self, content: u64, request: usize) {
        if self.is_told() {
            self.values.borrow_mut().insert(content, request);
        }
    }
    /// What a content is called.
    pub fn value(&self, content: u64) -> String {
        match self.values.borrow().get(&content) {
            _ if content == 0 => "zeroes".into(),
            Some(request) => format!("value {request}"),
            None => format!("{content:x}, which no request of this run wrote"),
        }
    }

    /// A checker looks at this.
    pub fn judge(&self, subject: Subject) {
        self.subject.set(Some(subject));
    }
    /// What a checker looked at last.
    pub fn subject(&self) -> Option<Subject> {
        self.subject.get()
    }

    /// What matters to a subject, line by line; all, when there is none.
    pub fn lines(&self, subject: Option<Subject>) -> Vec<String> {
        let Some(told) = &self.told else { return Vec::new() };
        let told = told.borrow();
        let groups: Vec<GroupId> = told.iter().filter_map(|t| group_of(&t.about, subject)).collect();
        let matters = |t: &&Told| match (&t.about, subject) {
            (About::Cluster, _) => true,
            (About::Group(group), Some(Subject::Group(g))) => *group == g,
            (About::Group(group), _) => groups.contains(group),
            (about, _) => group_of(about, subject).is_some(),
        };
        told.iter().filter(matters).map(Told::line).collect()
    }

    /// What a checker says, in the words of the story: contents by the names of their values.
    pub fn verdict(&self, says: &str) -> String {
        let is_word = |c: char| c.is_ascii_alphanumeric();
        let mut words = String::new();
        let mut rest = says;
        while let Some(from) = rest.find(is_word) {
            let to = rest[from..].find(|c| !is_word(c)).map_or(rest.len(), |n| from + n);
            let word = &rest[from..to];
            words.push_str(&rest[..from]);
            let content = u64::from_str_radix(word, 16).ok().filter(|_| word.len() > 8);
            let known = content.filter(|c| self.values.borrow().contains_key(c));
            words.push_str(&known.map_or_else(|| word.to_owned(), |c| self.value(c)));
            rest = &rest[to..];
        }
        words + rest
    }
}

/// The group of a request that matters to a subject.
fn group_of(about: &About, subject: Option<Subject>) -> Option<GroupId> {
    match (about, subject) {
        (About::Blocks(group, key, range), Some(Subject::Block(seen))) => {
            let is_same = (key.0, key.1) == (seen.0, seen.1) && range.contains(&seen.2);
            is_same.then_some(*group)
        }
        (About::Blocks(group, ..), Some(Subject::Group(g))) => (*group == g).then_some(g),
        (About::Blocks(group, ..), None) => Some(*group),
        _ => None,
    }
}

impl Told {
    fn line(&self) -> String {
        let mut line = format!("{}  {}", seconds(self.at), self.text);
        if let Some((at, text)) = &self.end {
            let _ = write!(line, "; {} {text}", seconds(*at).trim_start());
        }
        line
    }
}

/// A time of the story.
pub fn seconds(at: Instant) -> String {
    format!("{:9.3} s", at.0 as f64 / 1e9)
}

/// `block 3`, `blocks 3 to 5`.
pub fn blocks(range: BlockRange) -> String {
    let first = range.first;
    match range.count {
        1 => format!("block {first}"),
        count => format!("blocks {first} to {}", first + count - 1),
    }
}

/// Names in a row: `node 0`, `nodes 0 and 2`, `nobody`.
pub fn nodes(all: &[usize]) -> String {
    let names: Vec<String> = all.iter().map(usize::to_string).collect();
    match names.as_slice() {
        [] => "nobody".into(),
        [one] => format!("node {one}"),
        [first @ .., last] => format!("nodes {} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_types::VolumeId;

    const KEY: Key = (VolumeId(1), 2, 7);

    fn story() -> Story {
        let story = Story::begun();
        let (g, at) = (GroupId(3), Instant(1_500_000_000));
        story.tell(at, About::Cluster, || "node 1 stands still".into());
        story.tell(at, About::Group(g), || "group 3".into());
        story.tell(at, About::Group(GroupId(4)), || "group 4".into());
        let asked = story.tell(at, About::Blocks(g, (VolumeId(1), 2, 0), 7..9), || "a write".into());
        story.ended(asked, Instant(1_600_000_000), || "it is answered".into());
        story.tell(at, About::Blocks(g, (VolumeId(1), 2, 0), 8..9), || "beside it".into());
        story.tell(at, About::Blocks(GroupId(4), (VolumeId(2), 2, 0), 7..8), || "elsewhere".into());
        story
    }
    fn texts(lines: &[String]) -> Vec<&str> {
        lines.iter().map(|l| l.split_once(" s  ").unwrap().1).collect()
    }

    #[test]
    fn of_a_story_what_matters_to_the_subject_is_told() {
        let lines = story().lines(Some(Subject::Block(KEY)));
        assert_eq!(lines[0], "    1.500 s  node 1 stands still");
        assert_eq!(texts(&lines), ["node 1 stands still", "group 3", "a write; 1.600 s it is answered"]);
        let lines = story().lines(Some(Subject::Group(GroupId(4))));
        assert_eq!(texts(&lines), ["node 1 stands still", "group 4", "elsewhere"]);
        assert_eq!(story().lines(None).len(), 6);
        assert!(Story::default().lines(None).is_empty());
    }

    #[test]
    fn a_verdict_names_values_by_their_requests() {
        let story = story();
        story.name(0x1234_5678_9abc_def0, 17);
        assert_eq!(
            story.verdict("(1, 2) shows 123456789abcdef0 at 1.5s; not feedfacefeedface"),
            "(1, 2) shows value 17 at 1.5s; not feedfacefeedface"
        );
        assert_eq!(story.value(0), "zeroes");
    }

    #[test]
    fn nodes_and_blocks_in_a_row() {
        assert_eq!(blocks(BlockRange::new(3, 1)), "block 3");
        assert_eq!(blocks(BlockRange::new(3, 3)), "blocks 3 to 5");
        assert_eq!([nodes(&[]), nodes(&[2]), nodes(&[0, 1, 2])], ["nobody", "node 2", "nodes 0, 1 and 2"]);
    }
}
