//! The protocol byte by byte: what a client sends, what it gets.
mod support;
use proptest::prelude::*;
use sarsen_block::Limits;
use sarsen_nbd::{IN_FLIGHT_MAX, OPTION_BYTES_MAX, OPTIONS_MAX, Violation};
use support::*;

const FLAGS: u16 = 0b1001_0110_1101;

fn haggling() -> Server {
    let mut server = Server::new();
    server.receive(&3u32.to_be_bytes()).expect("flags");
    server.sent();
    server
}
fn export_info(flags: u16) -> Vec<u8> {
    let mut data = vec![0, 0];
    data.extend(SIZE.to_be_bytes());
    data.extend(flags.to_be_bytes());
    data
}

#[test]
fn the_server_speaks_first_fixed_newstyle_without_zeroes() {
    let mut server = Server::new();
    let mut wanted = b"NBDMAGICIHAVEOPT".to_vec();
    wanted.extend([0, 3]);
    assert_eq!(server.sent(), wanted);
}

#[test]
fn each_option_has_its_answer() {
    let ack = |n| option_reply(n, 1, &[]);
    let refused = |n, kind: u32, why: &str| option_reply(n, (1 << 31) + kind, why.as_bytes());
    let malformed = "the option is not well formed";
    let mut listed = 3u32.to_be_bytes().to_vec();
    listed.extend(b"vol");
    let mut context = 0u32.to_be_bytes().to_vec();
    context.extend(b"base:allocation");
    let info = |number| option_reply(number, 3, &export_info(FLAGS));
    let mut info_asked = go("", &[]);
    info_asked[11] = 6;
    let table: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("list", option(3, &[]), [option_reply(3, 2, &listed), ack(3)].concat()),
        ("list with data", option(3, &[1]), refused(3, 3, "the option takes no data")),
        ("an unknown option", option(99, b"abc"), refused(99, 1, "the option is not known here")),
        ("TLS", option(5, &[]), refused(5, 1, "the option is not known here")),
        ("extended headers", option(11, &[]), refused(11, 1, "the option is not known here")),
        ("info of the nameless export", info_asked, [info(6), ack(6)].concat()),
        ("go elsewhere", go("other", &[]), refused(7, 6, "there is no such export")),
        ("go without a body", option(7, &[]), refused(7, 3, malformed)),
        ("go with a long name", option(7, &[255, 255, 255, 255, 0, 0]), refused(7, 3, malformed)),
        ("contexts too early", contexts(9, "vol", &[]), refused(9, 3, "structured replies come first")),
        ("structured", option(8, &[]), ack(8)),
        ("structured with data", option(8, &[0]), refused(8, 3, "the option takes no data")),
        ("all contexts", contexts(9, "vol", &[]), [option_reply(9, 4, &context), ack(9)].concat()),
        ("contexts of a kind", contexts(9, "", &["base:"]), [option_reply(9, 4, &context), ack(9)].concat()),
        ("another's contexts", contexts(9, "", &["qemu:"]), ack(9)),
        ("contexts elsewhere", contexts(10, "x", &[]), refused(10, 6, "there is no such export")),
        ("no context", contexts(10, "vol", &[]), ack(10)),
        ("a broken list of contexts", option(10, &[0, 0, 0, 0, 0, 0, 0, 9]), refused(10, 3, malformed)),
    ];
    let mut server = haggling();
    for (what, sent, wanted) in table {
        server.receive(&sent).expect(what);
        assert_eq!(server.sent(), wanted, "{what}");
    }
    context[3] = 1;
    server.receive(&contexts(10, "vol", &["qemu:x", "base:allocation"])).expect("contexts");
    assert_eq!(server.sent(), [option_reply(10, 4, &context), ack(10)].concat());
    assert!(!server.connection.is_serving());
}

#[test]
fn go_tells_what_is_asked_once_and_begins() {
    let mut server = haggling();
    server.receive(&go("vol", &[3, 1, 2, 3, 77])).expect("go");
    let mut sizes = vec![0, 3];
    for size in [1u32, 4096, 32 << 20] {
        sizes.extend(size.to_be_bytes());
    }
    let wanted = [
        option_reply(7, 3, &export_info(FLAGS)),
        option_reply(7, 3, &sizes),
        option_reply(7, 3, b"\0\x01vol"),
        option_reply(7, 3, b"\0\x02a volume"),
        option_reply(7, 1, &[]),
    ];
    assert_eq!(server.sent(), wanted.concat());
    assert!(server.connection.is_serving());
}

#[test]
fn an_old_client_names_the_export_and_gets_zeroes_unless_it_declines_them() {
    for (flags, zeroes) in [(1u32, 124), (3, 0)] {
        let mut server = Server::new();
        server.sent();
        server.receive(&flags.to_be_bytes()).expect("flags");
        server.receive(&option(1, b"vol")).expect("a name");
        let mut wanted = SIZE.to_be_bytes().to_vec();
        wanted.extend(FLAGS.to_be_bytes());
        wanted.resize(10 + zeroes, 0);
        assert_eq!(server.sent(), wanted);
        assert!(server.connection.is_serving());
    }
    let mut server = haggling();
    assert_eq!(server.receive(&option(1, b"other")), Err(Violation::UnknownExport));
}

#[test]
fn a_client_that_connects_again_sees_the_size_of_now() {
    let mut server = haggling();
    server.export.size *= 2;
    server.receive(&go("", &[])).expect("go");
    let sent = server.sent();
    assert_eq!(sent[22..30], (2 * SIZE).to_be_bytes());
}

#[test]
fn an_abort_is_acknowledged_and_ends_the_connection() {
    let mut server = haggling();
    server.receive(&option(2, &[])).expect("abort");
    assert_eq!(server.sent(), option_reply(2, 1, &[]));
    assert!(server.is_closed);
}

#[test]
fn garbage_ends_the_connection() {
    let mut server = Server::new();
    assert_eq!(server.receive(b"GET / HTTP/1.1\r\n"), Err(Violation::Flags(u32::from_be_bytes(*b"GET "))));
    let mut server = haggling();
    assert_eq!(server.receive(&[7; 16]), Err(Violation::OptionMagic(0x0707_0707_0707_0707)));
    let mut server = haggling();
    let mut long = option(3, &[]);
    long[12..16].copy_from_slice(&(OPTION_BYTES_MAX + 1).to_be_bytes());
    assert_eq!(server.receive(&long), Err(Violation::OptionLength(OPTION_BYTES_MAX + 1)));
    let mut server = haggling();
    for _ in 0..OPTIONS_MAX {
        server.receive(&option(3, &[])).expect("a list");
    }
    assert_eq!(server.receive(&option(3, &[])), Err(Violation::TooManyOptions));
    let mut server = serving(Limits::default(), true);
    assert_eq!(server.receive(&[9; 28]), Err(Violation::RequestMagic(0x0909_0909)));
    let mut server = serving(Limits::default(), true);
    let long = (32 << 20) + 1;
    assert_eq!(server.receive(&request(0, 1, 1, 0, long)), Err(Violation::WriteLength(long)));
}

#[test]
fn each_command_has_its_answer() {
    let mut hole = 8192u64.to_be_bytes().to_vec();
    hole.extend(4096u32.to_be_bytes());
    let mut data = 100u64.to_be_bytes().to_vec();
    data.extend([5; 50]);
    let status = |runs: &[(u32, u32)]| {
        let mut bytes = 1u32.to_be_bytes().to_vec();
        runs.iter().for_each(|(len, state)| {
            bytes.extend(len.to_be_bytes());
            bytes.extend(state.to_be_bytes());
        });
        chunk(1, 5, 1, &bytes)
    };
    let error = |errno: u32| chunk(1, 32769, 1, &[&errno.to_be_bytes()[..], &[0, 0]].concat());
    let write = [request(0, 1, 1, 100, 50), vec![5; 50]].concat();
    let end = SIZE - 4096;
    let late_write = [request(0, 1, 1, end, 8192), vec![5; 8192]].concat();
    let table: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("a write", write, simple_reply(0, 1)),
        ("a write with FUA", [request(1, 1, 1, 8, 1), vec![5]].concat(), simple_reply(0, 1)),
        ("a write of nothing", request(0, 1, 1, 8, 0), simple_reply(0, 1)),
        ("a write with unknown flags", [request(64, 1, 1, 8, 1), vec![5]].concat(), simple_reply(22, 1)),
        ("a write beyond the end", late_write, simple_reply(28, 1)),
        ("a read of data", request(0, 0, 1, 100, 50), chunk(1, 1, 1, &data)),
        ("a read of a hole", request(0, 0, 1, 8192, 4096), chunk(1, 2, 1, &hole)),
        ("a read beyond the end", request(0, 0, 1, end, 8192), error(22)),
        ("a read of nothing", request(0, 0, 1, 0, 0), chunk(1, 0, 1, &[])),
        ("a read that is too long", request(0, 0, 1, 0, u32::MAX), error(22)),
        ("a read with unknown flags", request(8, 0, 1, 0, 1), error(22)),
        ("a flush", request(0, 3, 1, 0, 0), simple_reply(0, 1)),
        ("a trim", request(0, 4, 1, 4096, 4096), simple_reply(0, 1)),
        ("a trim beyond the end", request(0, 4, 1, end, 8192), simple_reply(22, 1)),
        ("zeroes", request(1, 6, 1, 4096, 4096), simple_reply(0, 1)),
        ("zeroes without a hole, fast", request(2 | 16, 6, 1, 0, 4096), simple_reply(0, 1)),
        ("long zeroes", request(0, 6, 1, 0, SIZE as u32), simple_reply(0, 1)),
        ("zeroes beyond the end", request(0, 6, 1, end, 8192), simple_reply(28, 1)),
        ("cache, which is not offered", request(0, 5, 1, 0, 4096), simple_reply(22, 1)),
        ("an unknown command", request(0, 99, 1, 0, 4096), simple_reply(22, 1)),
        ("a status of a hole", request(0, 7, 1, 0, 8192), status(&[(8192, 3)])),
        ("another write", [request(0, 1, 1, 4096, 10), vec![1; 10]].concat(), simple_reply(0, 1)),
        ("a status", request(0, 7, 1, 0, 12288), status(&[(4096, 3), (4096, 0), (4096, 3)])),
        ("a status of one run", request(8, 7, 1, 0, 12288), status(&[(4096, 3)])),
        ("a status of nothing", request(0, 7, 1, 0, 0), error(22)),
        ("a status beyond the end", request(0, 7, 1, end, 8192), error(22)),
    ];
    let mut server = serving(Limits::default(), true);
    for (what, sent, wanted) in table {
        server.receive(&sent).expect(what);
        assert_eq!(server.sent(), wanted, "{what}");
    }
}

#[test]
fn a_read_that_must_not_be_cut_comes_in_one_chunk() {
    let mut server = serving(Limits::default(), true);
    server.receive(&request(4, 0, 1, 0, 4096)).expect("a read");
    let mut data = vec![0; 8];
    data.resize(8 + 4096, 0);
    assert_eq!(server.sent(), chunk(1, 1, 1, &data));
    // and without structured replies nobody may ask for it, nor for the state of blocks
    let mut server = serving(Limits::default(), false);
    server.receive(&request(4, 0, 1, 0, 4096)).expect("a read");
    assert_eq!(server.sent(), simple_reply(22, 1));
    server.receive(&request(0, 7, 1, 0, 4096)).expect("a status");
    assert_eq!(server.sent(), simple_reply(22, 1));
    server.receive(&request(0, 0, 1, 0, 512)).expect("a read");
    assert_eq!(server.sent(), [simple_reply(0, 1), vec![0; 512]].concat());
}

#[test]
fn a_goodbye_waits_for_the_answers() {
    let mut server = serving(Limits::default(), false);
    server.is_carrying_out = false;
    server.receive(&request(0, 4, 1, 0, 4096)).expect("a trim");
    server.receive(&request(0, 2, 2, 0, 0)).expect("goodbye");
    server.receive(b"what comes after is nobody's").expect("ignored");
    assert!(!server.is_closed);
    server.carry_out();
    assert_eq!(server.sent(), simple_reply(0, 1));
    assert!(server.is_closed);
}

#[test]
fn a_client_with_too_much_under_way_is_not_read_from_until_something_ends() {
    let mut server = serving(Limits::default(), false);
    server.is_carrying_out = false;
    for n in 0..IN_FLIGHT_MAX as u64 + 5 {
        server.receive(&request(0, 4, n, 0, 4096)).expect("a trim");
    }
    assert!(server.rests);
    assert_eq!((server.said.requests.len(), server.waiting.len()), (IN_FLIGHT_MAX, 5 * 28));
    server.carry_out();
    server.go_on().expect("the rest");
    assert_eq!((server.said.requests.len(), server.waiting.len()), (5, 0));
    // bytes count too
    let mut server = serving(Limits::default(), false);
    server.is_carrying_out = false;
    for n in 0..10 {
        server.receive(&request(0, 0, n, 0, 16 << 20)).expect("a read");
    }
    assert_eq!(server.said.requests.len(), 5);
}

#[test]
fn a_long_payload_is_received_where_it_belongs_inside_its_blocks() {
    let mut server = serving(Limits::default(), false);
    server.is_carrying_out = false;
    let (offset, len) = (4096 + 700, 100_000u32);
    let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
    server.receive(&request(0, 1, 1, offset, len)).expect("a head");
    for part in bytes.chunks(7777) {
        assert!(server.said.requests.is_empty());
        server.receive(part).expect("a part");
    }
    let data = server.said.requests[0].data().expect("a write");
    assert_eq!(data.len() % 4096, 0);
    assert!(data[..700].iter().all(|b| *b == 0) && data[700..700 + bytes.len()] == bytes);
    assert!(data[700 + bytes.len()..].iter().all(|b| *b == 0));
}

/// Things a client may say, well formed or nearly so.
fn talk() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        (any::<u16>(), 0u16..9, any::<u64>(), 0u32..70_000).prop_map(|(f, c, o, l)| {
            let payload = if c == 1 { l as usize } else { 0 };
            [request(f & 31, c, 1, o % (SIZE + 9000), l), vec![3; payload]].concat()
        }),
        (0u32..12, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(n, data)| option(n, &data)),
        Just(go("vol", &[0, 3])),
        Just(option(8, &[])),
        Just(contexts(10, "", &["base:allocation"])),
        Just(3u32.to_be_bytes().to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_client_says_nothing_panics(said in prop::collection::vec(talk(), 0..20), begun: bool, cut in 1usize..5000) {
        let mut server = if begun { serving(Limits::default(), true) } else { haggling() };
        let bytes = said.concat();
        for part in bytes.chunks(cut) {
            if server.is_closed || server.receive(part).is_err() {
                break;
            }
            prop_assert!(server.waiting.len() <= 32 << 10, "what waits is bounded");
        }
    }
}
