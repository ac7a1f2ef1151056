//! The metadata as the rest of a node sees them: what raft applied here, or what another node had applied if that is newer.
use sarsen_control::State;
use std::sync::Arc;
use tokio::sync::watch;

/// See the module. Cheap to clone; what is shown only gets newer, whoever shows it.
#[derive(Clone)]
pub struct Shown {
    state: watch::Sender<Arc<State>>,
    /// Raised after `state`: what was applied up to it is seen there.
    index: watch::Sender<u64>,
}

impl Shown {
    /// Shows by these.
    pub fn new(state: watch::Sender<Arc<State>>, index: watch::Sender<u64>) -> Shown {
        Shown { state, index }
    }

    /// The metadata as they were when all entries up to `index` were applied. A revision names one state.
    pub fn show(&self, state: &Arc<State>, index: u64) {
        self.state.send_if_modified(|known| {
            let is_newer = state.revision > known.revision;
            if is_newer {
                known.clone_from(state);
            }
            is_newer
        });
        self.index.send_if_modified(|known| {
            let is_newer = index > *known;
            *known = index.max(*known);
            is_newer
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_types::Revision;

    #[test]
    fn what_raft_applies_later_does_not_take_back_what_another_node_showed() {
        let (states, state) = watch::channel(Arc::default());
        let (indexes, index) = watch::channel(0);
        let shown = Shown::new(states, indexes);
        let at = |revision| Arc::new(State { revision: Revision(revision), ..State::default() });
        let now = || (state.borrow().revision.0, *index.borrow());
        shown.show(&at(5), 9);
        assert_eq!(now(), (5, 9));
        shown.show(&at(3), 7);
        assert_eq!(now(), (5, 9));
        // an entry that changed nothing
        shown.show(&at(5), 10);
        assert_eq!(now(), (5, 10));
    }
}
