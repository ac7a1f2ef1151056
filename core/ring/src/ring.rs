//! One thread's event loop: sockets, disks, wake-ups; one system call and one clock read a turn (L5).
use crate::clock;
use crate::conn::{Conn, Fill, Stage};
use crate::disk::{DiskQueue, RingDisk};
use crate::engine::{Done, Engine, Kind, RingConfig, tag, untag};
use crate::error::RingError;
use crate::file::DriveFile;
use crate::net::{self, Name};
use crate::pinned::{PinnedSends, ZeroCopy};
use crate::waker::Waker;
use io_uring::{opcode, types};
use sarsen_buffer::{Buf, Pool};
use sarsen_types::{Duration, Instant};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// A connection. Not used twice in one life of its ring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

impl ConnId {
    fn new(index: u32, age: u32) -> ConnId {
        ConnId(u64::from(age) << 32 | u64::from(index))
    }
    fn index(self) -> usize {
        self.0 as u32 as usize
    }
    fn age(self) -> u32 {
        (self.0 >> 32) as u32
    }
    /// A small number that no other open connection of the ring has: for tables of what belongs to each.
    pub fn slot(self) -> usize {
        self.index()
    }
}

/// A listening socket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub u32);

/// What a turn saw.
#[derive(Debug)]
pub enum Event {
    /// A connection came in; it is received on from now on.
    Accepted {
        /// Where.
        listener: ListenerId,
        /// It.
        conn: ConnId,
    },
    /// A connection that was dialed stands.
    Connected(ConnId),
    /// Bytes came: look at [`Ring::received`]. Told once; what is left unconsumed is not told again by itself.
    Readable(ConnId),
    /// The buffer given to [`Ring::receive_into`] is full.
    Filled {
        /// On which connection.
        conn: ConnId,
        /// The buffer.
        buf: Buf,
    },
    /// The connection is gone, or never came to stand. Its id means nothing any more.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why; `UnexpectedEof` when the other end closed it.
        why: io::Error,
    },
    /// A [`Waker`] was used: look after the channels.
    Woken,
}

struct Listener {
    fd: OwnedFd,
    is_armed: bool,
    is_closed: bool,
    /// Accepting failed for want of descriptors or memory: not tried again before this.
    rests_until: Option<Instant>,
}

enum Slot {
    Free,
    Used(Box<Conn>),
}

/// See the module.
pub struct Ring {
    engine: Rc<RefCell<Engine>>,
    pool: Pool,
    /// For what is received and not looked at yet: it has a bound of its own.
    inputs: Pool,
    config: RingConfig,
    slots: Vec<(u32, Slot)>,
    free: Vec<u32>,
    /// Connections with something to send, to receive for, or to end.
    to_send: Vec<u32>,
    to_receive: Vec<u32>,
    listeners: Vec<Listener>,
    pinned: PinnedSends,
    waker: Waker,
    wake_buf: Box<[u8; 8]>,
    is_wake_armed: bool,
    done: Vec<Done>,
    /// Turns in a row that entered the kernel not at all.
    skipped: u32,
    /// Events that arose outside of a turn.
    early: Vec<Event>,
    turns: u64,
    /// What inputs take beyond what each connection has.
    wide: usize,
}

/// Ages of slots are as many as fit beside the kind in a completion's tag.
const AGE_MASK: u32 = (1 << 24) - 1;
/// Turns that may go without a look at the sockets, while memory-backed disks keep a thread busy.
const SKIPPED_MAX: u32 = 4;
/// How long a listener rests after a failed accept.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// IORING_RECVSEND_POLL_FIRST: nothing is expected to be there yet.
const POLL_FIRST: u16 = 1;
/// IORING_SEND_ZC_REPORT_USAGE: say whether it was copied after all.
const REPORT_USAGE: u16 = 1 << 3;
/// IORING_NOTIF_USAGE_ZC_COPIED.
const COPIED: u32 = 1 << 31;
/// IORING_CQE_F_SOCK_NONEMPTY: the socket has more.
const NONEMPTY: u32 = 1 << 2;

impl Ring {
    /// A ring for the calling thread, whose connections take their buffers from `pool`.
    pub fn new(config: RingConfig, pool: &Pool) -> Result<Ring, RingError> {
        let engine = Rc::new(RefCell::new(Engine::new(&config, pool)?));
        Ok(Ring {
            engine,
            pool: pool.clone(),
            inputs: pool.beside(),
            config,
            slots: Vec::new(),
            free: Vec::new(),
            to_send: Vec::new(),
            to_receive: Vec::new(),
            listeners: Vec::new(),
            pinned: PinnedSends::default(),
            waker: Waker::new().map_err(RingError::SetUp)?,
            wake_buf: Box::new([0; 8]),
            is_wake_armed: false,
            done: Vec::new(),
            skipped: 0,
            early: Vec::new(),
            turns: 0,
            wide: 0,
        })
    }

    /// Bounds what busy connections may take for what they receive, see [`RingConfig::wide_inputs`].
    pub fn set_wide_inputs(&mut self, bytes: usize) {
        self.config.wide_inputs = bytes;
    }
    /// The pool its buffers come from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
    /// The same pool, counted apart.
    pub fn beside(&self) -> &Pool {
        &self.inputs
    }
    /// Bytes of the buffer that is being filled on a connection, see [`Ring::receive_into`].
    pub fn filling(&self, conn: ConnId) -> usize {
        self.held(conn).and_then(|held| held.fill.as_ref()).map_or(0, |fill| fill.buf.len())
    }
    /// What the kernel would not keep at hand for it, in one line that says what to do (L8).
    pub fn refusal(&self) -> Option<String> {
        self.engine.borrow().refusal()
    }
    /// A way for other threads to end this one's wait.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }
    /// Turns and system calls so far.
    pub fn counters(&self) -> (u64, u64) {
        (self.turns, self.engine.borrow().enters)
    }

    /// Listens on a TCP address; port 0 picks one. Gives the address it is.
    pub fn listen_tcp(&mut self, address: SocketAddr) -> Result<(ListenerId, SocketAddr), RingError> {
        let (fd, address) = net::listen_tcp(address)?;
        Ok((self.listen(fd), address))
    }
    /// Listens on a unix socket; one that is left over from a dead process is replaced.
    pub fn listen_unix(&mut self, path: &Path) -> Result<ListenerId, RingError> {
        Ok(self.listen(net::listen_unix(path)?))
    }
    /// Accepts on a socket that listens already.
    pub fn listen(&mut self, fd: OwnedFd) -> ListenerId {
        self.listeners.push(Listener { fd, is_armed: false, is_closed: false, rests_until: None });
        ListenerId(self.listeners.len() as u32 - 1)
    }
    /// Accepts no more.
    pub fn unlisten(&mut self, listener: ListenerId) {
        let listener = &mut self.listeners[listener.0 as usize];
        listener.is_closed = true;
        // SAFETY: no pointers. Ends the accept in flight.
        unsafe { libc::shutdown(listener.fd.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Dials a TCP address. `Connected` or `Closed` follows; what is sent before goes out then.
    pub fn connect_tcp(&mut self, address: SocketAddr) -> Result<ConnId, RingError> {
        self.connect(Name::tcp(address), || address.to_string())
    }
    /// Dials a unix socket.
    pub fn connect_unix(&mut self, path: &Path) -> Result<ConnId, RingError> {
        self.connect(Name::unix(path)?, || path.display().to_string())
    }
    fn connect(&mut self, name: Name, at: impl Fn() -> String) -> Result<ConnId, RingError> {
        let fd = net::socket(&name).map_err(|why| RingError::Socket { at: at(), why })?;
        let conn = Conn::new(fd, Stage::Connecting, &self.inputs, &[], self.config.send_batch_bytes);
        let id = self.add(conn);
        let conn = self.slot(id.index());
        conn.name = Some(name);
        conn.in_connect = true;
        let name = conn.name.as_ref().expect("set above");
        let (target, address, len) = (conn.target, name.as_ptr(), name.len);
        let entry = target.mark(opcode::Connect::new(target.fd(), address, len).build());
        let entry = entry.user_data(tag(Kind::Connect, id.age(), id.index() as u32));
        // SAFETY: the name lies in the boxed connection, which lives until the connect has completed.
        unsafe { self.engine.borrow_mut().push(&entry) };
        Ok(id)
    }

    /// Takes over a connected socket. Of `already`, which was read from it before, it is `Readable` in the next turn.
    pub fn adopt(&mut self, fd: OwnedFd, already: &[u8]) -> ConnId {
        net::tune_tcp(fd.as_raw_fd());
        let copies = self.copies_to(&fd);
        let mut conn = Conn::new(fd, Stage::Open, &self.inputs, already, self.config.send_batch_bytes);
        conn.copies = copies;
        let id = self.add(conn);
        self.want_receive(id.index());
        if !already.is_empty() {
            self.early.push(Event::Readable(id));
        }
        id
    }

    /// Gives the socket up, with what was received and not consumed; `None` while something is in flight on it or
    /// queued for it: then it is asked again after a turn.
    pub fn release(&mut self, conn: ConnId) -> Option<(OwnedFd, Vec<u8>)> {
        let index = self.find(conn)?;
        let held = self.slot(index);
        if !held.is_quiet() || held.output.queued() > 0 || held.stage != Stage::Open {
            return None;
        }
        let rest = held.input.bytes().to_vec();
        let fd = held.fd.try_clone().ok()?;
        self.to_receive.retain(|&i| i as usize != index);
        self.to_send.retain(|&i| i as usize != index);
        self.remove(index);
        Some((fd, rest))
    }

    fn copies_to(&self, fd: &OwnedFd) -> bool {
        match self.config.zero_copy {
            ZeroCopy::Never => true,
            ZeroCopy::Remote(_) => !net::is_remote(fd),
            ZeroCopy::Always(_) => false,
        }
    }
    fn add(&mut self, conn: Conn) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, Slot::Free));
            self.slots.len() as u32 - 1
        });
        let mut conn = conn;
        conn.target = self.engine.borrow().keep_conn(index, conn.fd.as_raw_fd());
        self.wide += conn.input.wide();
        let (age, slot) = &mut self.slots[index as usize];
        *slot = Slot::Used(Box::new(conn));
        ConnId::new(index, *age)
    }
    fn remove(&mut self, index: usize) {
        let held = self.slot(index);
        let (target, wide) = (held.target, held.input.wide());
        self.wide -= wide;
        self.engine.borrow().let_go(target);
        let (age, slot) = &mut self.slots[index];
        *age = (*age + 1) & AGE_MASK;
        *slot = Slot::Free;
        self.free.push(index as u32);
    }
    fn slot(&mut self, index: usize) -> &mut Conn {
        match &mut self.slots[index].1 {
            Slot::Used(conn) => conn,
            Slot::Free => unreachable!("a completion comes before its slot is free"),
        }
    }
    /// The slot of a connection that was not closed.
    fn find(&self, conn: ConnId) -> Option<usize> {
        match self.slots.get(conn.index()) {
            Some((age, Slot::Used(held))) if *age == conn.age() && held.stage != Stage::Closing => {
                Some(conn.index())
            }
            _ => None,
        }
    }

    /// Sends a frame whose head `put` appends to the connection's output; `payload` follows it without being copied.
    /// An urgent frame goes before all that is not in flight. Nothing happens when the connection is gone.
    pub fn send_with(
        &mut self,
        conn: ConnId,
        payload: Option<Buf>,
        is_urgent: bool,
        put: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(index) = self.find(conn) else { return };
        self.slot(index).output.put(is_urgent, payload, put);
        self.want_send(index);
    }
    /// Sends `head`, copied, and `payload`, not copied.
    pub fn send(&mut self, conn: ConnId, head: &[u8], payload: Option<Buf>) {
        self.send_with(conn, payload, false, |out| out.extend_from_slice(head));
    }
    /// As [`Ring::send`], before all that is not in flight yet.
    pub fn send_urgent(&mut self, conn: ConnId, head: &[u8]) {
        self.send_with(conn, None, true, |out| out.extend_from_slice(head));
    }
    /// Bytes given to send that the kernel has not taken yet; 0 when the connection is gone.
    pub fn queued(&self, conn: ConnId) -> usize {
        self.held(conn).map_or(0, |held| held.output.queued())
    }
    /// What was received and not consumed.
    pub fn received(&self, conn: ConnId) -> &[u8] {
        self.held(conn).map_or(&[], |held| held.input.bytes())
    }
    fn held(&self, conn: ConnId) -> Option<&Conn> {
        match &self.slots.get(self.find(conn)?)?.1 {
            Slot::Used(held) => Some(held),
            Slot::Free => None,
        }
    }
    /// The first `len` bytes of what was received are done with.
    ///
    /// # Panics
    /// If fewer were received.
    pub fn consume(&mut self, conn: ConnId, len: usize) {
        let Some(index) = self.find(conn) else { return };
        self.slot(index).input.consume(len);
        self.want_receive(index);
    }
    /// A frame head of `len` bytes is on its way: makes room for all of it.
    ///
    /// # Panics
    /// If it is above 2 MiB.
    pub fn make_room(&mut self, conn: ConnId, len: usize) {
        let Some(index) = self.find(conn) else { return };
        self.slot(index).input.want(len);
        self.want_receive(index);
    }
    /// The next bytes, from what was received already on, go straight into `buf`; `Filled` tells when it is full.
    ///
    /// # Panics
    /// If a buffer is being filled, or other views of `buf` exist.
    pub fn receive_into(&mut self, conn: ConnId, mut buf: Buf) {
        let Some(index) = self.find(conn) else { return };
        let held = self.slot(index);
        assert!(held.fill.is_none(), "one buffer is filled at a time");
        let here = held.input.bytes();
        let at = here.len().min(buf.len());
        buf.get_mut()[..at].copy_from_slice(&here[..at]);
        held.input.consume(at);
        held.input.calm();
        if at == buf.len() {
            self.early.push(Event::Filled { conn, buf });
        } else {
            // a receive in flight, if there is one, ends in the input; its bytes are moved then
            self.slot(index).fill = Some(Fill { buf, at });
        }
        self.want_receive(index);
    }
    /// Ends a connection at once: what is queued is dropped, and no `Closed` follows.
    pub fn close(&mut self, conn: ConnId) {
        if let Some(index) = self.find(conn) {
            self.begin_close(index);
        }
    }
    /// Ends a connection when all that is queued was sent; nothing more is received. No `Closed` follows.
    pub fn close_when_sent(&mut self, conn: ConnId) {
        let Some(index) = self.find(conn) else { return };
        let held = self.slot(index);
        if held.output.queued() == 0 {
            self.begin_close(index);
        } else {
            held.ends_when_sent = true;
        }
    }
    /// The credentials and address of the other end, for messages.
    pub fn peer_name(&self, conn: ConnId) -> String {
        let Some(held) = self.held(conn) else { return String::from("a closed connection") };
        let Ok(fd) = held.fd.try_clone() else { return String::from("a connection") };
        match std::net::TcpStream::from(fd).peer_addr() {
            Ok(address) => address.to_string(),
            Err(_) => String::from("a local socket"),
        }
    }

    /// Whether the other end is gone, though it is not read from: a connection that is not read never tells (`Closed`).
    pub fn is_hung_up(&self, conn: ConnId) -> bool {
        let Some(held) = self.held(conn) else { return true };
        let mut poll = libc::pollfd { fd: held.fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one live entry, and no waiting.
        let found = unsafe { libc::poll(&mut poll, 1, 0) };
        found > 0 && poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
    }

    /// Whether nothing that was given to send is on its way any more: it has left and, over TCP, was acknowledged, so the other
    /// end was there to take it. One that hung up answers data with a reset, and never acknowledges them. Of a connection that
    /// is gone nothing is on its way.
    pub fn is_delivered(&self, conn: ConnId) -> bool {
        let Some(held) = self.held(conn) else { return true };
        held.output.queued() == 0 && (!held.is_tcp || net::unacknowledged(held.fd.as_raw_fd()) == 0)
    }

    /// Whether [`Ring::is_hung_up`] sees the other end's goodbye whatever lies unread before it: so with a unix socket. TCP's
    /// waits for room behind what is unread.
    pub fn shows_hang_up(&self, conn: ConnId) -> bool {
        self.held(conn).is_some_and(|held| !held.is_tcp)
    }

    /// Waits for minutes while the other end takes nothing: it may be a machine that was frozen for a while.
    pub fn be_patient(&self, conn: ConnId) {
        if let Some(held) = self.held(conn) {
            net::be_patient(held.fd.as_raw_fd());
        }
    }

    /// A part of a drive as a disk of this ring.
    pub fn disk(&mut self, file: Arc<DriveFile>, start: u64, len: u64) -> RingDisk {
        RingDisk::new(self.engine.clone(), file, start, len)
    }

    fn want_send(&mut self, index: usize) {
        let held = self.slot(index);
        if !held.is_to_send && !held.in_send && held.stage == Stage::Open {
            held.is_to_send = true;
            self.to_send.push(index as u32);
        }
    }
    fn want_receive(&mut self, index: usize) {
        let held = self.slot(index);
        if !held.is_to_receive && !held.in_receive && held.stage == Stage::Open && !held.ends_when_sent {
            held.is_to_receive = true;
            self.to_receive.push(index as u32);
        }
    }
    fn begin_close(&mut self, index: usize) {
        let age = self.slots[index].0;
        let held = self.slot(index);
        held.stage = Stage::Closing;
        held.output.clear();
        if let Some(fill) = held.fill.take_if(|_| !held.in_receive) {
            drop(fill);
        }
        // SAFETY: no pointers. It ends receives and sends in flight.
        unsafe { libc::shutdown(held.fd.as_raw_fd(), libc::SHUT_RDWR) };
        if held.in_connect {
            let entry = opcode::AsyncCancel::new(tag(Kind::Connect, age, index as u32)).build();
            // SAFETY: it points to nothing.
            unsafe { self.engine.borrow_mut().push(&entry.user_data(tag(Kind::Cancel, 0, 0))) };
        }
        self.end_if_quiet(index);
    }
    /// Frees a closing connection's slot once the kernel has nothing of it any more.
    fn end_if_quiet(&mut self, index: usize) {
        let held = self.slot(index);
        if held.stage == Stage::Closing && held.is_quiet() && !held.is_to_send && !held.is_to_receive {
            self.remove(index);
        }
    }

    /// Submits what was asked for since the last turn, sends before device writes; waits for something to happen, until
    /// `deadline` at the latest (for ever without one); appends what happened to `events`. Gives the time, read after
    /// the last of it was gathered (R3).
    pub fn turn(&mut self, deadline: Option<Instant>, events: &mut Vec<Event>) -> Instant {
        self.turns += 1;
        let early = std::mem::take(&mut self.early);
        // what became of a connection since, its owner knows
        events.extend(early.into_iter().filter(|event| match event {
            Event::Readable(conn) | Event::Filled { conn, .. } => {
                self.held(*conn).is_some_and(|held| !held.ends_when_sent)
            }
            _ => true,
        }));
        self.submit_sends();
        self.submit_receives();
        self.arm_accepts_and_wake();
        let engine = self.engine.clone();
        let disks = engine.borrow().disks.len();
        let mut has_inline = false;
        let mut has_done = !events.is_empty();
        for disk in 0..disks {
            let queue = engine.borrow().disks[disk].clone();
            let is_inline = queue.borrow().has_inline();
            has_inline |= is_inline;
            if !is_inline {
                DiskQueue::submit(&queue, &mut engine.borrow_mut());
            }
        }
        let mut engine = engine.borrow_mut();
        has_done |= engine.disks.iter().any(|disk| disk.borrow().has_done());
        if has_inline {
            // sends leave before this thread is busy with its disk
            let is_due = self.skipped >= SKIPPED_MAX;
            if engine.has_queued() || is_due {
                engine.enter(0, None);
                self.skipped = 0;
            } else {
                self.skipped += 1;
            }
            for disk in 0..disks {
                let queue = engine.disks[disk].clone();
                if queue.borrow().has_inline() {
                    queue.borrow_mut().run_inline();
                }
            }
        } else if has_done || engine.has_kept() {
            engine.enter(0, None);
        } else {
            let rest = self.listeners.iter().filter(|l| !l.is_closed).filter_map(|l| l.rests_until).min();
            let deadline = Instant::earliest(deadline, rest);
            let timeout = deadline.map(|d| d.since(clock::now()));
            let is_due = timeout == Some(Duration::ZERO);
            engine.enter(u32::from(!is_due), timeout.filter(|_| !is_due));
        }
        let mut done = std::mem::take(&mut self.done);
        engine.gather(&mut done);
        drop(engine);
        for done in done.drain(..) {
            self.carry_out(done, events);
        }
        self.done = done;
        clock::now()
    }

    fn submit_sends(&mut self) {
        for at in 0..self.to_send.len() {
            let index = self.to_send[at] as usize;
            let age = self.slots[index].0;
            let held = self.slot(index);
            held.is_to_send = false;
            if held.stage != Stage::Open || held.in_send {
                self.end_if_quiet(index);
                continue;
            }
            let target = held.target;
            let Some(message) = held.output.message() else { continue };
            held.in_send = true;
            let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
            let payload = if held.copies { 0 } else { held.output.payload_bytes() };
            let is_pinned = match self.config.zero_copy {
                ZeroCopy::Never => false,
                ZeroCopy::Remote(least) | ZeroCopy::Always(least) => payload >= least.max(1),
            };
            let entry = if is_pinned {
                let Slot::Used(held) = &mut self.slots[index].1 else { unreachable!("looked at above") };
                let (number, pinned) = self.pinned.take(ConnId::new(index as u32, age));
                held.output.pin(pinned);
                let entry =
                    opcode::SendMsgZc::new(target.fd(), message).flags(flags).ioprio(REPORT_USAGE).build();
                entry.user_data(tag(Kind::PinnedSend, 0, number))
            } else {
                let entry = opcode::SendMsg::new(target.fd(), message).flags(flags).build();
                entry.user_data(tag(Kind::Send, age, index as u32))
            };
            // SAFETY: the message and all it names lie in the boxed connection, which lives until the send completed, or
            // are held by the pinned sends until the kernel said that it reads them no more.
            unsafe { self.engine.borrow_mut().push(&target.mark(entry)) };
        }
        self.to_send.clear();
    }

    fn submit_receives(&mut self) {
        for at in 0..self.to_receive.len() {
            let index = self.to_receive[at] as usize;
            let age = self.slots[index].0;
            let pool = self.inputs.clone();
            let may_widen = self.wide < self.config.wide_inputs;
            let held = self.slot(index);
            held.is_to_receive = false;
            if held.stage != Stage::Open || held.in_receive {
                self.end_if_quiet(index);
                continue;
            }
            let before = held.input.wide();
            let room = match &mut held.fill {
                Some(fill) => {
                    let rest = fill.buf.len() - fill.at;
                    // SAFETY: `at` lies inside the buffer, of which this is the only view.
                    let to = unsafe { fill.buf.as_ptr().add(fill.at).cast_mut() };
                    Some((to, rest as u32, libc::MSG_WAITALL))
                }
                None => held.input.room(&pool, may_widen).map(|(to, len)| (to, len, 0)),
            };
            let after = held.input.wide();
            if room.is_some() {
                held.in_receive = true;
                held.is_filling = held.fill.is_some();
            }
            let (target, first) = (held.target, if held.has_more { 0 } else { POLL_FIRST });
            self.wide = self.wide - before + after;
            let Some((to, len, flags)) = room else { continue };
            let entry = opcode::Recv::new(target.fd(), to, len).flags(flags).ioprio(first).build();
            let entry = target.mark(entry);
            // SAFETY: the buffer lies in the boxed connection, which lives until the receive completed.
            unsafe { self.engine.borrow_mut().push(&entry.user_data(tag(Kind::Receive, age, index as u32))) };
        }
        self.to_receive.clear();
    }

    fn arm_accepts_and_wake(&mut self) {
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            if listener.is_armed || listener.is_closed {
                continue;
            }
            if listener.rests_until.is_some_and(|until| clock::now() < until) {
                continue;
            }
            listener.rests_until = None;
            listener.is_armed = true;
            let fd = types::Fd(listener.fd.as_raw_fd());
            let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
            // SAFETY: it points to nothing; the descriptor lives as long as the ring.
            unsafe { self.engine.borrow_mut().push(&entry.user_data(tag(Kind::Accept, 0, number as u32))) };
        }
        if !self.is_wake_armed {
            self.is_wake_armed = true;
            let fd = types::Fd(self.waker.fd());
            let entry = opcode::Read::new(fd, self.wake_buf.as_mut_ptr(), 8).build();
            // SAFETY: the buffer is boxed and lives as long as the ring, which ends what is in flight before it goes.
            unsafe { self.engine.borrow_mut().push(&entry.user_data(tag(Kind::Wake, 0, 0))) };
        }
    }

    fn carry_out(&mut self, done: Done, events: &mut Vec<Event>) {
        let (kind, _, index) = untag(done.data);
        let index = index as usize;
        match kind {
            Kind::Receive => self.on_received(index, done, events),
            Kind::Send => self.on_sent(index, done.result, events),
            Kind::PinnedSend => self.on_pinned(index as u32, done, events),
            Kind::Connect => self.on_connected(index, done.result, events),
            Kind::Accept => {
                let is_closed = self.listeners[index].is_closed;
                if !io_uring::cqueue::more(done.flags) {
                    self.listeners[index].is_armed = false;
                }
                if done.result < 0 {
                    self.listeners[index].rests_until = Some(clock::now() + ACCEPT_REST);
                } else {
                    // SAFETY: the kernel just made this descriptor for us.
                    let fd = unsafe { OwnedFd::from_raw_fd(done.result) };
                    if !is_closed {
                        let conn = self.adopt(fd, &[]);
                        events.push(Event::Accepted { listener: ListenerId(index as u32), conn });
                    }
                }
            }
            Kind::Wake => {
                self.is_wake_armed = false;
                self.waker.hush();
                events.push(Event::Woken);
            }
            Kind::Disk | Kind::Cancel => {}
        }
    }

    fn fail(&mut self, index: usize, why: io::Error, events: &mut Vec<Event>) {
        let conn = ConnId::new(index as u32, self.slots[index].0);
        let held = self.slot(index);
        if held.stage != Stage::Closing {
            if !held.ends_when_sent {
                events.push(Event::Closed { conn, why });
            }
            self.begin_close(index);
        } else {
            self.end_if_quiet(index);
        }
    }

    fn on_received(&mut self, index: usize, done: Done, events: &mut Vec<Event>) {
        let conn = ConnId::new(index as u32, self.slots[index].0);
        let held = self.slot(index);
        held.in_receive = false;
        held.has_more = done.flags & NONEMPTY != 0;
        if held.stage == Stage::Closing {
            return self.end_if_quiet(index);
        }
        if held.ends_when_sent {
            // nobody looks at it any more; whether the other end still reads, the sends will tell
            return;
        }
        if done.result <= 0 {
            if done.result == -libc::EINTR || done.result == -libc::EAGAIN {
                return self.want_receive(index);
            }
            let why = match done.result {
                0 => io::Error::from(io::ErrorKind::UnexpectedEof),
                error => io::Error::from_raw_os_error(-error),
            };
            return self.fail(index, why, events);
        }
        let len = done.result as usize;
        if held.is_filling {
            held.is_filling = false;
            held.fill.as_mut().expect("set when it was submitted").at += len;
        } else {
            held.input.received(len);
        }
        match held.fill.take() {
            Some(mut fill) => {
                // what an earlier receive brought into the input comes first
                let here = held.input.bytes();
                let more = here.len().min(fill.buf.len() - fill.at);
                let at = fill.at;
                fill.buf.get_mut()[at..at + more].copy_from_slice(&here[..more]);
                fill.at += more;
                held.input.consume(more);
                if fill.at == fill.buf.len() {
                    events.push(Event::Filled { conn, buf: fill.buf });
                    if !held.input.bytes().is_empty() {
                        events.push(Event::Readable(conn));
                    }
                } else {
                    held.fill = Some(fill);
                }
            }
            None => events.push(Event::Readable(conn)),
        }
        self.want_receive(index);
    }

    fn on_sent(&mut self, index: usize, result: i32, events: &mut Vec<Event>) {
        let held = self.slot(index);
        held.in_send = false;
        if held.stage == Stage::Closing {
            return self.end_if_quiet(index);
        }
        match result {
            error if error == -libc::EINTR || error == -libc::EAGAIN => {}
            error if error < 0 => return self.fail(index, io::Error::from_raw_os_error(-error), events),
            len => held.output.sent(len as usize),
        }
        if held.output.queued() > 0 {
            self.want_send(index);
        } else if held.ends_when_sent {
            self.begin_close(index);
        }
    }

    /// A send without copying completes twice: when it was sent, and when its memory is read no more.
    fn on_pinned(&mut self, number: u32, done: Done, events: &mut Vec<Event>) {
        if io_uring::cqueue::notif(done.flags) {
            let conn = self.pinned.release(number);
            if done.result as u32 & COPIED != 0
                && matches!(self.config.zero_copy, ZeroCopy::Remote(_))
                && let Some(index) = self.find(conn)
            {
                self.slot(index).copies = true;
            }
            return;
        }
        let index = self.pinned.conn(number).index();
        if !io_uring::cqueue::more(done.flags) {
            self.pinned.release(number);
        }
        if matches!(-done.result, libc::EOPNOTSUPP | libc::EINVAL | libc::ENOMEM | libc::ENOBUFS) {
            // not here, or not now: the same bytes go the other way
            let held = self.slot(index);
            (held.copies, held.in_send) = (true, false);
            if held.stage == Stage::Closing {
                return self.end_if_quiet(index);
            }
            return self.want_send(index);
        }
        self.on_sent(index, done.result, events);
    }

    fn on_connected(&mut self, index: usize, result: i32, events: &mut Vec<Event>) {
        let conn = ConnId::new(index as u32, self.slots[index].0);
        let held = self.slot(index);
        held.in_connect = false;
        if held.stage == Stage::Closing {
            return self.end_if_quiet(index);
        }
        if result < 0 {
            return self.fail(index, io::Error::from_raw_os_error(-result), events);
        }
        held.stage = Stage::Open;
        let Slot::Used(held) = &self.slots[index].1 else { unreachable!("looked at above") };
        let copies = self.copies_to(&held.fd);
        let held = self.slot(index);
        held.copies = copies;
        if !held.ends_when_sent {
            events.push(Event::Connected(conn));
        }
        self.want_receive(index);
        if self.slot(index).output.queued() > 0 {
            self.want_send(index);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.engine.borrow_mut().drain() {
            // Memory the kernel may still write to is never freed: lost once, at the end of a thread whose device hangs.
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(std::mem::take(&mut self.pinned));
            std::mem::forget(std::mem::replace(&mut self.wake_buf, Box::new([0; 8])));
            std::mem::forget(self.engine.borrow().disks.clone());
        }
    }
}
