//! A peer that speaks the protocol badly.

use core::time::Duration;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use portcullis_types::Pa;

use super::*;

/// A peer that gives one answer of `answers` to each question in turn, then does `at_the_end`. It hands back the questions.
fn peer(answers: &'static [&'static str], at_the_end: fn(UnixStream)) -> (Qtest, JoinHandle<Vec<String>>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let thread = thread::spawn(move || {
        let mut lines = BufReader::new(theirs.try_clone().unwrap()).lines();
        let mut questions = Vec::new();
        for answer in answers {
            questions.push(lines.next().unwrap().unwrap());
            theirs.write_all(answer.as_bytes()).unwrap();
        }
        at_the_end(theirs);
        questions
    });
    (Qtest::new(ours, Duration::from_millis(100)), thread)
}

fn close(stream: UnixStream) {
    drop(stream);
}

/// Waits for the other side to go.
fn hang(mut stream: UnixStream) {
    let _ = stream.read(&mut [0; 1]);
    while matches!(stream.read(&mut [0; 64]), Ok(count) if count > 0) {}
}

const AT: Pa = Pa::new(0x905_0000);

#[test]
fn a_question_is_one_line_and_its_answer_the_value() {
    let (mut qtest, peer) =
        peer(&["OK 0x0d40101a\n", "OK\n", "OK 0x01ff\n", "OK\n", "OK\n", "OK big\n"], close);
    assert_eq!(qtest.load(AT, Width::Bits32), Ok(0x0d40_101a));
    assert_eq!(qtest.store(AT, Width::Bits16, 0x1_2345), Ok(()));
    let mut bytes = [0; 2];
    assert_eq!((qtest.read(AT, &mut bytes), bytes), (Ok(()), [0x01, 0xff]));
    assert_eq!(qtest.write(AT, &[0xab, 0]), Ok(()));
    assert_eq!(qtest.fill(AT, 0x20, 7), Ok(()));
    assert_eq!(qtest.byte_order(), Ok(ByteOrder::Big));
    let questions = [
        "readl 0x9050000",
        "writew 0x9050000 0x2345",
        "read 0x9050000 0x2",
        "write 0x9050000 0x2 0xab00",
        "memset 0x9050000 0x20 0x7",
        "endianness",
    ];
    assert_eq!(peer.join().unwrap(), questions);
}

#[test]
fn many_stores_are_sent_before_their_answers_are_read() {
    // The second question must arrive before the first is answered, or both sides wait.
    let (mut qtest, peer) = peer(&["", "OK\nOK\n"], close);
    assert_eq!(qtest.store_all(&[(AT, Width::Bits8, 1), (AT, Width::Bits64, u64::MAX)]), Ok(()));
    assert_eq!(peer.join().unwrap(), ["writeb 0x9050000 0x1", "writeq 0x9050000 0xffffffffffffffff"]);
}

#[test]
fn interrupt_lines_and_split_answers_do_not_confuse() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let peer = thread::spawn(move || {
        for part in ["IRQ raise 3\nIR", "Q lower 3\nO", "K 0x1", "2\n"] {
            theirs.write_all(part.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(2));
        }
        theirs
    });
    let mut qtest = Qtest::new(ours, Duration::from_secs(5));
    assert_eq!(qtest.load(AT, Width::Bits8), Ok(0x12));
    drop(peer.join().unwrap());
}

#[test]
fn a_peer_that_closes_is_gone() {
    let (mut qtest, peer) = peer(&[], close);
    peer.join().unwrap();
    assert_eq!(qtest.load(AT, Width::Bits32), Err(QtestError::Closed));
    let (mut qtest, peer) = self::peer(&["OK 0x"], close);
    assert_eq!(qtest.load(AT, Width::Bits32), Err(QtestError::Closed));
    peer.join().unwrap();
}

#[test]
fn a_peer_that_hangs_is_waited_for_only_so_long() {
    for answer in [&[] as &[_], &["OK 0x12"], &["IRQ raise 1\n"]] {
        let (mut qtest, peer) = peer(answer, hang);
        assert_eq!(qtest.load(AT, Width::Bits32), Err(QtestError::TimedOut));
        drop(qtest);
        peer.join().unwrap();
    }
}

#[test]
fn a_peer_that_chatters_is_waited_for_only_so_long() {
    let chatter = |mut stream: UnixStream| while stream.write_all(b"IRQ raise 1\n").is_ok() {};
    let (mut qtest, peer) = peer(&[""], chatter);
    assert_eq!(qtest.load(AT, Width::Bits32), Err(QtestError::TimedOut));
    drop(qtest);
    peer.join().unwrap();
}

#[test]
fn an_answer_without_meaning_is_shown() {
    for answer in [
        "FAIL Unknown command\n",
        "OKAY\n",
        "OK\n",
        "OK 12\n",
        "OK 0x123456789\n",
        "OK 0x11112222333344445\n",
        "OK 0xzz\n",
        "\n",
        "OK 0x\u{fffd}\n",
    ] {
        let (mut qtest, peer) = peer(Box::leak(Box::new([&*answer.to_owned().leak()])), hang);
        let error = qtest.load(AT, Width::Bits32).unwrap_err();
        assert!(matches!(error, QtestError::Nonsense(_)), "{answer:?} gave {error}");
        drop(qtest);
        peer.join().unwrap();
    }
}

#[test]
fn a_read_takes_exactly_the_bytes_that_it_asked_for() {
    for answer in ["OK 0x01\n", "OK 0x010203\n", "OK 0x0g02\n", "OK 0102\n"] {
        let (mut qtest, peer) = peer(Box::leak(Box::new([answer])), hang);
        assert!(matches!(qtest.read(AT, &mut [0; 2]), Err(QtestError::Nonsense(_))), "{answer}");
        drop(qtest);
        peer.join().unwrap();
    }
}

#[test]
fn a_line_that_never_ends_is_cut() {
    let flood = |mut stream: UnixStream| while stream.write_all(&[b'x'; 1024]).is_ok() {};
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = thread::spawn(move || flood(theirs));
    let mut qtest = Qtest::new(ours, Duration::from_secs(10));
    assert_eq!(qtest.load(AT, Width::Bits32), Err(QtestError::Nonsense("x".repeat(SHOWN))));
    drop(qtest);
    peer.join().unwrap();
}

#[test]
fn a_batch_asks_in_turn_and_answers_what_its_loads_read() {
    let (mut qtest, peer) = peer(&["OK\n", "OK 0x07\n", "IRQ raise 3\nOK\n", "OK 0x08\n"], close);
    let steps = [
        Step::Store(AT, Width::Bits32, 1),
        Step::Load(AT, Width::Bits32),
        Step::Write(AT, vec![0xab, 1]),
        Step::Load(AT, Width::Bits64),
    ];
    assert_eq!(qtest.batch(&steps), Ok(vec![7, 8]));
    let questions =
        ["writel 0x9050000 0x1", "readl 0x9050000", "write 0x9050000 0x2 0xab01", "readq 0x9050000"];
    assert_eq!(peer.join().unwrap(), questions);
}
