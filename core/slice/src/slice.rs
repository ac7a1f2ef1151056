//! The slice: inputs to the replication machine, its outputs to the store, the store's events back.
use crate::merge::Merge;
use crate::turn::{Config, ConnId, Input, LeaseMode, Output};
use crate::verify;
use sarsen_buffer::{Buf, Pool};
use sarsen_replication as machine;
use sarsen_replication::{Blocks, Counters, Machine, ReadFailed, Token};
use sarsen_store::Store;
use sarsen_store::disk::Disk;
use sarsen_store::events::{self, Event, ReadError, ReadSpec};
use sarsen_types::limits::{BACKOFF_FIRST, PAGE_ENTRIES_MAX, PREPARE_TIMEOUT};
use sarsen_types::record::Entry;
use sarsen_types::{GroupId, Instant, SliceId, Version};
use sarsen_wire::client::{ClientReply, ClientResult};
use sarsen_wire::peer::{GroupBody, PeerMessage};
use std::collections::BTreeMap;

/// See the module.
pub struct Slice<D: Disk> {
    machine: Machine<Buf>,
    store: Store<D>,
    pool: Pool,
    merges: BTreeMap<Token, Merge>,
    /// Floors that moved in this turn, each group's highest: the store looks through what they settle once a turn.
    floors: Vec<(GroupId, Version)>,
    todo: Vec<machine::Output<Buf>>,
    events: Vec<Event>,
    is_ended: bool,
    drive: (bool, bool, bool),
}

impl<D: Disk> Slice<D> {
    /// A slice over an opened store. It answers nothing before it is registered (R1).
    pub fn new(config: Config, store: Store<D>, pool: Pool) -> Slice<D> {
        let ledgers: Vec<_> =
            store.groups().filter_map(|g| store.ledger(g).map(|ledger| (g, ledger.clone()))).collect();
        let confirm = config.lease == LeaseMode::Confirm;
        let Config { id: me, started, memory, epoch_writes, .. } = config;
        let machine = Machine::new(machine::Config { me, started, confirm, memory, epoch_writes }, ledgers);
        Slice {
            machine,
            store,
            pool,
            merges: BTreeMap::new(),
            floors: Vec::new(),
            todo: Vec::new(),
            events: Vec::new(),
            is_ended: false,
            drive: (false, false, false),
        }
    }

    /// Works on one input.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        if self.is_ended {
            return;
        }
        let conn_of = |conn: ConnId| machine::ConnId(conn.0);
        let input = match input {
            Input::Registered { view, is_stale } => machine::Input::Registered { view, is_stale },
            Input::Learned(view) => machine::Input::Learned(view),
            Input::PeerUp { slice, same_kernel } => machine::Input::PeerUp { slice, same_kernel },
            Input::PeerDown { slice } => machine::Input::PeerDown { slice },
            Input::ClientUp { conn, greeting } => machine::Input::ClientUp { conn: conn_of(conn), greeting },
            Input::ClientDown { conn } => machine::Input::ClientDown { conn: conn_of(conn) },
            Input::Peer { from, message, payload } => {
                if !verify::peer(&message, payload.as_ref()) {
                    return self.refuse_peer(from, &message, out);
                }
                machine::Input::Peer { from, message, payload }
            }
            Input::Client { conn, request, payload } => {
                if !verify::client(&request, payload.as_ref(), self.machine.view()) {
                    // damaged on its way: the sender still has it
                    let reply = ClientReply {
                        number: request.id.number,
                        piece: request.id.piece,
                        group: request.group,
                        result: ClientResult::Retry { after: BACKOFF_FIRST },
                    };
                    return out.push(Output::Reply { conn, reply, payload: None });
                }
                machine::Input::Client { conn: conn_of(conn), request, payload }
            }
        };
        self.feed(now, input, out);
    }

    fn refuse_peer(&mut self, from: SliceId, message: &PeerMessage, out: &mut Vec<Output>) {
        let what = match message {
            PeerMessage::Group(m) => format!("{:?}", m.group),
            _ => "a message".to_owned(),
        };
        out.push(Output::Report(format!(
            "{what} from slice {from} does not match its checksums: the stream is made again"
        )));
        out.push(Output::Hangup { slice: from });
    }

    /// Ends a turn: what the disk completed, what time brought.
    pub fn finish(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.is_ended {
            return;
        }
        self.watch_drive(now, out);
        self.raise_floors();
        let mut events = std::mem::take(&mut self.events);
        self.store.poll(now, &mut events);
        for event in events.drain(..) {
            self.event(now, event, out);
        }
        self.events = events;
        let mut todo = std::mem::take(&mut self.todo);
        self.machine.finish(now, &mut todo);
        self.carry_out(todo, out);
        self.raise_floors();
    }

    /// What the turn gathered goes to the disk. Called after the turn's sends were queued (L4).
    pub fn submit(&mut self, now: Instant) {
        if !self.is_ended {
            self.store.submit(now);
        }
    }

    /// When to do a turn though nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        Instant::earliest(self.machine.deadline(), self.store.deadline())
    }

    /// Rare events so far.
    pub fn counters(&self) -> &Counters {
        self.machine.counters()
    }

    /// Bytes that clients' reads under way take, or will.
    pub fn read_bytes(&self) -> usize {
        self.machine.read_blocks() as usize * sarsen_types::BLOCK_SIZE
    }

    /// The replication machine, for checkers and reports.
    pub fn machine(&self) -> &Machine<Buf> {
        &self.machine
    }

    /// The store.
    pub fn store(&self) -> &Store<D> {
        &self.store
    }

    /// The store, for closing it and for faults in the simulator.
    pub fn store_mut(&mut self) -> &mut Store<D> {
        &mut self.store
    }

    /// Ends the slice; the store remains, to be closed.
    pub fn into_store(self) -> Store<D> {
        self.store
    }

    /// R9, S16: tells the machine when the drive hangs or fills, and when no more.
    fn watch_drive(&mut self, now: Instant, out: &mut Vec<Output>) {
        let is_hung = self.store.oldest_request().is_some_and(|at| now.since(at) >= PREPARE_TIMEOUT);
        let space = self.store.space();
        let (is_full, is_full_for_joins) = (space.client_blocks_free == 0, space.join_blocks_free == 0);
        if self.drive != (is_hung, is_full, is_full_for_joins) {
            self.drive = (is_hung, is_full, is_full_for_joins);
            self.feed(now, machine::Input::Drive { is_hung, is_full, is_full_for_joins }, out);
        }
    }

    fn feed(&mut self, now: Instant, input: machine::Input<Buf>, out: &mut Vec<Output>) {
        let mut todo = std::mem::take(&mut self.todo);
        self.machine.step(now, input, &mut todo);
        self.carry_out(todo, out);
    }

    fn carry_out(&mut self, mut todo: Vec<machine::Output<Buf>>, out: &mut Vec<Output>) {
        for output in todo.drain(..) {
            self.carry_one(output, out);
        }
        self.todo = todo;
    }

    /// Before anything is read: what a floor makes visible is seen by all that follows it (R10).
    fn raise_floors(&mut self) {
        for (group, floor) in self.floors.drain(..) {
            self.store.raise_floor(group, floor);
        }
    }

    fn carry_one(&mut self, output: machine::Output<Buf>, out: &mut Vec<Output>) {
        let token_of = |token: Token| events::Token(token.0);
        match output {
            machine::Output::Send { to, message, payload } => {
                let is_urgent = matches!(message, PeerMessage::Beat(_) | PeerMessage::BeatAck(_));
                out.push(Output::Send { to, message, payload, is_urgent });
            }
            machine::Output::Reply { conn, reply, payload } => {
                out.push(Output::Reply { conn: ConnId(conn.0), reply, payload });
            }
            machine::Output::Hangup(slice) => out.push(Output::Hangup { slice }),
            machine::Output::Propose(proposal) => out.push(Output::Propose(proposal)),
            machine::Output::Persist { token, record, payload } => {
                self.store.persist(token_of(token), record, payload);
            }
            machine::Output::Read { token, read } => {
                self.raise_floors();
                self.store.read(token_of(token), spec(&read));
            }
            machine::Output::Status { token, read } => {
                self.raise_floors();
                self.store.status(token_of(token), spec(&read));
            }
            machine::Output::Merge { token, read, offset, len, payload } => {
                self.raise_floors();
                self.store.read(token_of(token), spec(&read));
                self.merges.insert(token, Merge { read, offset, len, payload });
            }
            machine::Output::Commit(group, version) => self.store.commit(group, version),
            machine::Output::RaiseFloor(group, floor) => {
                match self.floors.iter_mut().find(|f| f.0 == group) {
                    Some(known) => known.1 = known.1.max(floor),
                    None => self.floors.push((group, floor)),
                }
            }
            machine::Output::Settle(group, below) => self.store.settle(group, below),
            machine::Output::Vanish { group, may_vanish, may_forget } => {
                self.raise_floors();
                self.store.set_vanish(group, may_vanish, may_forget);
            }
            machine::Output::ListStacks { token, group, above, after } => {
                self.raise_floors();
                self.store.list_stacks(token_of(token), group, above, after, PAGE_ENTRIES_MAX);
            }
            machine::Output::ListTouched { token, group, above, after } => {
                self.raise_floors();
                self.store.list_touched(token_of(token), group, above, after, PAGE_ENTRIES_MAX);
            }
            machine::Output::ListEntries { token, group, object, visible_only } => {
                self.raise_floors();
                self.store.list_entries(token_of(token), group, object, visible_only);
            }
            machine::Output::Distrusted => out.push(Output::Distrusted),
            machine::Output::Dropped(revision) => out.push(Output::Dropped(revision)),
            machine::Output::Report(text) => out.push(Output::Report(text)),
            machine::Output::Alarm { group, alarm, blocks } => {
                out.push(Output::Alarm { group, alarm, blocks })
            }
        }
    }

    fn event(&mut self, now: Instant, event: Event, out: &mut Vec<Output>) {
        let token_of = |token: events::Token| Token(token.0);
        let input = match event {
            Event::Persisted(token) => machine::Input::Persisted(token_of(token)),
            Event::NoSpace(token) => machine::Input::NoSpace(token_of(token)),
            Event::Read(token, done) => match self.merges.remove(&token_of(token)) {
                Some(merge) => {
                    let merged = done.map(|under| merge.apply(&self.pool, &under)).map_err(failed);
                    machine::Input::Merged(token_of(token), merged)
                }
                None => {
                    let blocks = |d: events::ReadData| Blocks { entries: d.entries, data: d.data };
                    machine::Input::ReadDone(token_of(token), done.map(blocks).map_err(failed))
                }
            },
            Event::Status(token, done) => machine::Input::Status(token_of(token), done.map_err(failed)),
            Event::Stacks { token, blocks, is_last } => {
                machine::Input::Stacks(token_of(token), blocks, is_last)
            }
            Event::Touched { token, objects, is_last } => {
                machine::Input::Touched(token_of(token), objects, is_last)
            }
            Event::Entries { token, touched, runs } => {
                machine::Input::Entries(token_of(token), touched, runs.map_err(failed))
            }
            Event::Noticed(what) => return out.push(Output::Report(what)),
            Event::Failed(why) => {
                self.is_ended = true;
                return out.push(Output::Failed(why));
            }
        };
        self.feed(now, input, out);
    }
}

fn spec(read: &machine::Read) -> ReadSpec {
    ReadSpec {
        group: read.group,
        layers: read.layers.clone(),
        family: read.family,
        chunk: read.chunk,
        range: read.range,
        which: match read.which {
            machine::Which::Visible => events::Which::Visible,
            machine::Which::Exact(version) => events::Which::Exact(version),
        },
    }
}

fn failed(error: ReadError) -> ReadFailed {
    match error {
        ReadError::Corrupt(blocks) => ReadFailed::Corrupt(blocks),
        ReadError::Unreadable(object) => ReadFailed::Unreadable(object),
        ReadError::Missing => ReadFailed::Missing,
    }
}

/// Whether an entry is of data; what a payload counts.
pub fn is_data(entry: &Entry) -> bool {
    matches!(entry, Entry::Data(..))
}

/// Blocks of payload that a message must bring, for the receiver of its frame.
pub fn payload_blocks(message: &PeerMessage) -> usize {
    let PeerMessage::Group(message) = message else { return 0 };
    match &message.body {
        GroupBody::Prepare { write, .. } => write.data_blocks() as usize,
        GroupBody::Recover { recover, .. } => recover.entries.iter().filter(|e| is_data(e)).count(),
        GroupBody::FetchA { checksums, .. } => checksums.len(),
        _ => 0,
    }
}
