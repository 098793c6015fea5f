//! The rules that monoio 0.2.4 forces on us, each held by a test on both backends. A newer monoio that changes one of
//! them fails here, so that taking it up is a decision.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    rc::Rc,
    sync::{Arc, mpsc},
    task::Poll,
    time::Duration,
};

use super::{
    Clock, Links, guard,
    ring::{self, Backend, Choice},
    start,
    stream::{self, Stream, Tcp},
    wheel::Wheel,
};
use crate::{
    base::{
        limits,
        waiting::{Expiry, Waiting},
    },
    bridge::{
        bulletin::Bulletin,
        drain::{Drain, Stage},
        handoff::{Door, Handed, Inbox},
        outbox::Outbox,
        vitals::Vitals,
    },
    config,
    exchange::{
        Outgoing,
        h1::Client,
        seam::{Stir, Wire},
    },
};

/// Runs the same test on a ring and on epoll, each on a thread of its own, because a runtime stays with its thread.
#[track_caller]
fn on_both<F: Future<Output = ()>>(test: impl Fn(bool) -> F + Send + Copy + 'static) {
    for choice in [Choice::IoUring, Choice::Epoll] {
        let ran = std::thread::spawn(move || {
            let (driver, backend, _) = ring::build(choice).expect("this kernel lets tests have a ring");
            driver.run(test(backend == Backend::Epoll));
        });
        assert!(ran.join().is_ok(), "on {choice:?}");
    }
}

/// Two ends of a loopback connection: ours on this runtime, theirs blocking.
fn pair(is_epoll: bool, wheel: &Wheel) -> (Tcp, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(is_epoll).unwrap();
    (Tcp::new(monoio::net::TcpStream::from_std(ours).unwrap(), wheel), theirs)
}

fn bytes(bytes: &[u8]) -> Outgoing {
    let mut out = Outgoing::default();
    out.push_all(bytes.to_vec());
    out
}

/// Rule 1, the reason: a task that wakes itself keeps every completion from being delivered. `tidy` forbids the words
/// that make one.
#[test]
fn a_task_that_wakes_itself_starves_the_core() {
    on_both(|is_epoll| async move {
        let wheel = Wheel::default();
        let (mut tcp, mut theirs) = pair(is_epoll, &wheel);
        theirs.write_all(b"x").unwrap();
        let turns = Rc::new(Cell::new(0u32));
        let seen_at = Rc::new(Cell::new(None));
        {
            let turns = turns.clone();
            guard::spawn(
                poll_fn(move |cx| {
                    turns.set(turns.get() + 1);
                    if turns.get() == 10_000 {
                        return Poll::Ready(());
                    }
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }),
                || {},
            );
        }
        {
            let (turns, seen_at) = (turns.clone(), seen_at.clone());
            guard::spawn(
                async move {
                    let _ = tcp.read(Vec::with_capacity(8)).await;
                    seen_at.set(Some(turns.get()));
                },
                || {},
            );
        }
        while seen_at.get().is_none() {
            ring::sleep(Duration::from_millis(1)).await;
        }
        if !is_epoll {
            assert_eq!(seen_at.get(), Some(10_000), "monoio no longer starves: the rule may be relaxed");
        }
    });
}

/// Rule 2.
#[test]
fn a_panicking_task_takes_nothing_with_it() {
    on_both(|_| async {
        let panics = Rc::new(Cell::new(0));
        let (counted, survived) = (panics.clone(), Rc::new(Cell::new(false)));
        guard::spawn(async { std::panic::resume_unwind(Box::new("a bug")) }, move || {
            counted.set(counted.get() + 1)
        });
        let alive = survived.clone();
        guard::spawn(async move { alive.set(true) }, || {});
        ring::sleep(Duration::from_millis(2)).await;
        assert!(survived.get());
        assert_eq!(panics.get(), 1);
    });
}

/// Rule 3: the read is ended by shutting its socket and awaited, and its buffer comes back.
#[test]
fn a_read_that_is_given_up_is_shut_and_awaited() {
    on_both(|is_epoll| async move {
        let wheel = Wheel::default();
        let (client, their_client) = pair(is_epoll, &wheel);
        let (upstream, mut their_upstream) = pair(is_epoll, &wheel);
        let mut client = Client::new(Stream::Plain(client), [127, 0, 0, 1].into());
        let mut upstream = Stream::Plain(upstream);
        drop(their_client);
        let buffer = Vec::with_capacity(64);
        let address = buffer.as_ptr();
        match crate::exchange::read_watching(&mut client, &mut upstream, buffer).await {
            crate::exchange::Watched::ClientGone(buffer) => assert_eq!(buffer.as_ptr(), address),
            crate::exchange::Watched::Read(..) => panic!("the client had left"),
        }
        let mut end = [0; 1];
        assert_eq!(their_upstream.read(&mut end).unwrap(), 0, "the upstream is told at once");
    });
}

/// Rule 3 for deadlines: the wheel shuts the socket, the read returns by itself, and what had come is not lost.
#[test]
fn a_deadline_ends_a_read_and_loses_nothing() {
    on_both(|is_epoll| async move {
        let (wheel, clock) = (Wheel::default(), Clock::new());
        let (mut tcp, mut theirs) = pair(is_epoll, &wheel);
        tcp.expire_at(clock.now(), Waiting::Head);
        theirs.write_all(b"early").unwrap();
        let (read, buffer) = tcp.read(Vec::with_capacity(64)).await;
        assert_eq!((read.unwrap(), &buffer[..]), (5, &b"early"[..]));

        let turner = {
            let (wheel, clock) = (wheel.clone(), clock.clone());
            async move {
                ring::sleep(Duration::from_millis(60)).await;
                wheel.turn(clock.now(), stream::expire);
            }
        };
        guard::spawn(turner, || {});
        let (read, buffer) = tcp.read(buffer).await;
        assert_eq!((read.unwrap_or(0), buffer.len()), (0, 5));
        assert_eq!(tcp.expired(), Some(Expiry::Late(Waiting::Head)));
    });
}

/// Rule 3 for accepts: cancelled and awaited, and a connection that came meanwhile is adopted, not leaked.
#[test]
fn a_cancelled_accept_is_awaited() {
    on_both(|is_epoll| async move {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(is_epoll).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = monoio::net::TcpListener::from_std(listener).unwrap();
        let canceller = monoio::io::Canceller::new();
        let handle = canceller.handle();
        let accepted = Rc::new(RefCell::new(Vec::new()));
        let (kept, ended) = (accepted.clone(), Rc::new(Cell::new(false)));
        let flag = ended.clone();
        guard::spawn(
            async move {
                while let Ok((stream, _)) = listener.cancelable_accept(handle.clone()).await {
                    kept.borrow_mut().push(stream);
                }
                flag.set(true);
            },
            || {},
        );
        let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        while accepted.borrow().len() < clients.len() {
            ring::sleep(Duration::from_millis(1)).await;
        }
        canceller.cancel();
        while !ended.get() {
            ring::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(accepted.borrow().len(), clients.len());
    });
}

/// The turn's end is not waited for: among many sends, those that hurry leave before the tasks that queued them have all run.
#[test]
fn sends_that_hurry_leave_before_the_turn_is_over() {
    on_both(|is_epoll| async move {
        let wheel = Wheel::default();
        let (mut ours, theirs): (Vec<_>, Vec<_>) =
            (0..limits::QUEUED_SENDS_MAX).map(|_| pair(is_epoll, &wheel)).unzip();
        let mut outs: Vec<_> = ours.iter().map(|_| bytes(b"event")).collect();
        outs.iter_mut().for_each(Outgoing::hurry);
        let sends = ours.iter_mut().zip(&mut outs).map(|(ours, out)| Box::pin(ours.write(out)));
        let mut sends: Vec<_> = sends.collect();
        poll_fn(|cx| {
            sends.retain_mut(|send| send.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        // The runtime has had no say since they were queued. (On epoll there is no queue.)
        for theirs in theirs.iter().filter(|_| !is_epoll) {
            theirs.set_nonblocking(true).unwrap();
            assert_eq!(theirs.peek(&mut [0; 8]).unwrap(), 5);
        }
        assert!(is_epoll || sends.len() == theirs.len(), "a ring's sends end in another turn");
        for send in sends {
            send.await.unwrap();
        }
    });
}

/// Rule 4: what is in flight when the core ends is leaked with its runtime, so the kernel never writes into freed memory.
#[test]
fn a_runtime_is_leaked_with_what_is_in_flight() {
    struct Told(mpsc::Sender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    for choice in [Choice::IoUring, Choice::Epoll] {
        let (tell, told) = mpsc::channel();
        let theirs = std::thread::spawn(move || {
            let (driver, backend, _) = ring::build(choice).unwrap();
            driver.run(async move {
                let wheel = Wheel::default();
                let (mut tcp, theirs) = pair(backend == Backend::Epoll, &wheel);
                guard::spawn(
                    async move {
                        let _told = Told(tell);
                        let _ = tcp.read(Vec::with_capacity(64)).await;
                    },
                    || {},
                );
                ring::sleep(Duration::from_millis(2)).await;
                theirs
            })
        });
        let mut theirs = theirs.join().unwrap();
        let _ = theirs.write_all(b"late");
        assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Empty), "on {choice:?}: the task was dropped");
    }
}

/// Rule 5: a connect that nobody answers is ended by its deadline. `tidy` forbids connecting by name.
#[test]
fn a_connect_that_nobody_answers_ends_by_its_deadline() {
    on_both(|is_epoll| async move {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        // The backlog is full after this: further handshakes are not answered.
        let _full: Vec<_> = (0..2)
            .map(|_| {
                let filler =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                filler.set_nonblocking(true).unwrap();
                let _ = filler.connect(&address.into());
                filler
            })
            .collect();
        let (wheel, clock) = (Wheel::default(), Clock::new());
        let ours = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        ours.set_nonblocking(true).unwrap();
        let _ = ours.connect(&address.into());
        ours.set_nonblocking(is_epoll).unwrap();
        let mut tcp = Tcp::new(monoio::net::TcpStream::from_std(ours.into()).unwrap(), &wheel);
        tcp.expire_at(clock.now(), Waiting::Connect);
        let turner = {
            let wheel = wheel.clone();
            async move {
                ring::sleep(Duration::from_millis(60)).await;
                wheel.turn(clock.now(), stream::expire);
            }
        };
        guard::spawn(turner, || {});
        let _ = tcp.writable().await;
        assert_eq!(tcp.expired(), Some(Expiry::Late(Waiting::Connect)));
    });
}

/// Rule 6: the flags are those of a ring of the real size, on the thread that runs it.
#[test]
fn the_real_ring_is_tried() {
    let built = std::thread::spawn(|| {
        let (driver, backend, refused) = ring::build(Choice::Auto).unwrap();
        driver.run(async {});
        (backend, refused.map(|refused| refused.to_string()))
    });
    let (backend, refused) = built.join().unwrap();
    match backend {
        Backend::IoUring(_) => assert_eq!(refused, None),
        Backend::Epoll => assert!(refused.is_some_and(|why| why.starts_with("io_uring is refused"))),
    }
}

/// Rule 7: a core that runs says so where control can see it, and leaves its counts behind when it ends.
#[test]
fn a_core_beats_and_leaves_its_sheet() {
    for choice in [Choice::IoUring, Choice::Epoll] {
        let clock = Clock::new();
        let (links, drain, _inboxes) = lone_core(choice, clock.clone());
        let (snapshots, outboxes, vitals) =
            (links.snapshots.clone(), links.outboxes.clone(), links.vitals.clone());
        let running = start(links);
        // It has no connection, so its first tick is also its last.
        drain.advance(Stage::Draining);
        running.expect("this kernel lets tests have a ring").thread.join().expect("it ends by itself");
        assert!(vitals[0].is_alive(clock.now()), "on {choice:?}: no heartbeat");
        assert_eq!(snapshots.taken_up(1), 1, "on {choice:?}: the snapshot was not taken up");
        let mut sheets = 0;
        outboxes[0].collect(|_| sheets += 1);
        assert_eq!(sheets, 1, "on {choice:?}: its last sheet is lost");
    }
}

/// Rule 8 is a lint; this holds the lint.
#[test]
fn no_borrow_may_live_across_an_await() {
    let manifest = include_str!("../../Cargo.toml");
    assert!(manifest.contains("await_holding_refcell_ref = \"deny\""));
}

/// The watch is kept between calls, fires for bytes and for an end, and consumes nothing.
#[test]
fn the_watch_sees_bytes_and_ends_and_takes_nothing() {
    on_both(|is_epoll| async move {
        let wheel = Wheel::default();
        let (tcp, mut theirs) = pair(is_epoll, &wheel);
        let mut wire = Stream::Plain(tcp);
        let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(wire.poll_readable(&mut nobody).is_pending());
        assert_eq!(wire.peek(), Stir::Nothing);
        theirs.write_all(b"hi").unwrap();
        wire.readable().await;
        assert_eq!(wire.peek(), Stir::Bytes);
        let (read, buffer) = wire.read(Vec::with_capacity(8)).await;
        assert_eq!((read.unwrap(), &buffer[..]), (2, &b"hi"[..]));
        wire.rearm();
        assert!(wire.poll_readable(&mut nobody).is_pending(), "what was read is no news");
        drop(theirs);
        wire.readable().await;
        assert_eq!(wire.peek(), Stir::Gone);
    });
}

/// A write larger than any socket buffer arrives whole and in order, in however many calls.
#[test]
fn a_small_write_leaves_its_buffers_as_they_were() {
    on_both(|is_epoll| async move {
        let wheel = Wheel::default();
        let (mut tcp, mut theirs) = pair(is_epoll, &wheel);
        let mut buffer = Vec::with_capacity(64);
        buffer.extend_from_slice(b"a-b-c.");
        let mut out = Outgoing::default();
        let index = out.own(buffer);
        for start in [0, 2, 4] {
            out.push(index, crate::base::span::Span::new(start, start + 1));
        }
        tcp.write(&mut out).await.unwrap();
        assert_eq!(out.take(index), b"a-b-c.");
        let mut got = [0; 3];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"abc");
    });
}

#[test]
fn a_large_vectored_write_arrives_whole() {
    on_both(|is_epoll| async move {
        let wheel = Wheel::default();
        let (mut tcp, mut theirs) = pair(is_epoll, &wheel);
        let expect: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2]).collect();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).unwrap();
            got
        });
        let mut out = bytes(&expect[..1_000_000]);
        let second = out.own(expect[1_000_000..].to_vec());
        for start in (0..2_000_000).step_by(1_000) {
            // Every other piece from a fresh span, so that they are not joined into one.
            out.push(second, crate::base::span::Span::new(start, start + 500));
            out.push(second, crate::base::span::Span::new(start + 500, start + 1_000));
        }
        tcp.write(&mut out).await.unwrap();
        tcp.end_writing();
        assert!(reader.join().unwrap() == expect, "all bytes, in order");
    });
}

/// A core that sleeps is woken for a connection from another core at once, whatever flags its socket came with; at the
/// drain its inbox is closed, and what lay in it is the drain's to end.
#[test]
fn a_sleeping_core_hears_of_a_connection() {
    const ROUNDS: usize = 10;
    for choice in [Choice::IoUring, Choice::Epoll] {
        let clock = Clock::new();
        let (links, drain, inboxes) = lone_core(choice, clock.clone());
        let running = start(links).expect("this kernel lets tests have a ring");
        let street = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut quick = 0;
        for round in 0..ROUNDS {
            let mut client = connect(&street);
            let (socket, peer) = street.accept().unwrap();
            socket.set_nonblocking(round % 2 == 0).unwrap();
            client.write_all(b"GET /nothing HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n").unwrap();
            let began = clock.now();
            inboxes[0].offer(Handed { socket, peer, door: PLAIN }).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            quick += usize::from(clock.now().since(began) < limits::TICK / 2);
            assert!(answer.starts_with("HTTP/1.1 404 "), "on {choice:?}: {answer}");
        }
        // One after the other: whoever waited for a tick would wait for a whole one each time but the first.
        assert!(quick > ROUNDS / 2, "on {choice:?}: only {quick} of {ROUNDS} before the next tick");

        let mut idle = connect(&street);
        let (socket, peer) = street.accept().unwrap();
        let again = Handed { socket: socket.try_clone().unwrap(), peer, door: PLAIN };
        inboxes[0].offer(Handed { socket, peer, door: PLAIN }).unwrap();
        drain.advance(Stage::Draining);
        assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0, "on {choice:?}: an idle client is told");
        running.thread.join().expect("it ends by itself");
        assert!(inboxes[0].offer(again).is_err(), "on {choice:?}: it still takes connections");
    }
}

/// More connections than a core may have wait in its inbox as they would in a backlog.
#[test]
fn a_full_core_takes_no_more_until_one_leaves() {
    for choice in [Choice::IoUring, Choice::Epoll] {
        let (links, drain, inboxes) = lone_core(choice, Clock::new());
        let vitals = links.vitals.clone();
        let running = start(links).expect("this kernel lets tests have a ring");
        let street = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut served = Vec::new();
        let mut clients: Vec<TcpStream> = (0..FULL + 3)
            .map(|_| {
                let client = connect(&street);
                let (socket, peer) = street.accept().unwrap();
                inboxes[0].offer(Handed { socket, peer, door: PLAIN }).unwrap();
                client
            })
            .collect();
        // In the order in which they came, each when there is a place for it.
        for mut client in clients.drain(..) {
            client.write_all(b"GET /nothing HTTP/1.1\r\nHost: g\r\n\r\n").unwrap();
            let mut answer = [0; 12];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 404", "on {choice:?}");
            assert!(vitals[0].connections() <= FULL as u64, "on {choice:?}");
            served.push(client);
            if served.len() == FULL {
                served.remove(0);
            }
        }
        drain.advance(Stage::Draining);
        drop(served);
        running.thread.join().expect("it ends by itself");
    }
}

/// A client that does not wait for ever.
fn connect(street: &TcpListener) -> TcpStream {
    let client = TcpStream::connect(street.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client
}

/// Connections that the core of these tests may have.
const FULL: usize = 4;

const PLAIN: Door = Door { is_tls: false, is_proxied: false };

/// A core without listeners, not started yet, with what a test needs to play the house around it.
fn lone_core(choice: Choice, clock: Clock) -> (Links, Arc<Drain>, Arc<[Inbox]>) {
    let snapshots = Arc::new(Bulletin::new(1));
    let text = "[[provider]]\nname = \"sim\"\nbase_url = \"http://127.0.0.1:9/v1\"\nauth = \"none\"\n";
    let loaded = config::compile(text, "a test", &config::Fake::default()).expect("a small configuration");
    snapshots.publish(Arc::new(loaded.snapshot));
    let drain = Arc::new(Drain::default());
    let inboxes: Arc<[Inbox]> = [Inbox::new().expect("descriptors")].into();
    let links = Links {
        seat: 0,
        cpu: None,
        clock,
        choice,
        listeners: Vec::new(),
        snapshots,
        addresses: Arc::new(Bulletin::new(1)),
        callers: Arc::new(Bulletin::new(1)),
        quota: Arc::default(),
        health: Arc::default(),
        models: Arc::new(Bulletin::new(1)),
        certificates: Arc::new(Bulletin::new(1)),
        drain: drain.clone(),
        outboxes: [Outbox::new()].into(),
        vitals: [Vitals::new(0)].into(),
        inboxes: inboxes.clone(),
        log_pipes: [].into(),
        estimates: [].into(),
        connections_max: FULL,
    };
    (links, drain, inboxes)
}
