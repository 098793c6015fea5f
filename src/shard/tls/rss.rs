use super::*;
fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    s.lines().find(|l| l.starts_with("Rss")).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}
#[test]
fn rss_idle() {
    let big: usize = std::env::var("BIG").ok().and_then(|v| v.parse().ok()).unwrap_or(300);
    let ver = std::env::var("VER").unwrap_or("1.3".into());
    let n = 1000;
    let cert = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let config =
        server_config(cert.cert.pem().as_bytes(), cert.signing_key.serialize_pem().as_bytes()).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let py = format!(
        "
import ssl,socket
c=ssl._create_unverified_context(); c.set_alpn_protocols(['http/1.1'])
c.maximum_version = ssl.TLSVersion.TLSv1_{v}
l=[]
for i in range({n}+20):
    s=c.wrap_socket(socket.create_connection(('127.0.0.1',{port})),server_hostname='localhost')
    s.sendall(b'x'*{big}); 
    k=0
    while k<{big}: k+=len(s.recv(65536))
    l.append(s)
print('ready',l[0].version(),flush=True)
l[0].recv(1)
",
        v = if ver == "1.2" { 2 } else { 3 }
    );
    let mut child = std::process::Command::new("python3")
        .args(["-c", &py])
        .stdout(std::process::Stdio::inherit())
        .spawn()
        .unwrap();
    let mut flags = io_uring::IoUring::builder();
    flags.setup_single_issuer().setup_defer_taskrun();
    let mut rt = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .uring_builder(flags)
        .with_entries(4096)
        .build()
        .unwrap();
    rt.block_on(async {
        let wheel = super::super::wheel::Wheel::default();
        let mut keep: Vec<std::rc::Rc<std::cell::RefCell<Option<Box<Tls>>>>> = vec![];
        let mut before = 0;
        for i in 0..n + 20 {
            if i == 20 {
                before = rss();
            }
            let (s, _) = listener.accept().unwrap();
            let tcp = Tcp::new(monoio::net::TcpStream::from_std(s).unwrap(), &wheel);
            let mut tls = Tls::accept(tcp, config.clone()).await.unwrap();
            let mut got = 0;
            while got < big {
                let (r, b) = tls.read(Vec::with_capacity(16384)).await;
                got += r.unwrap();
                let mut out = Outgoing::default();
                out.push_all(b);
                tls.write(out).await.0.unwrap();
            }
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(tls.poll_readable(&mut cx).is_pending());
            keep.push(std::rc::Rc::new(std::cell::RefCell::new(Some(tls))));
        }
        let after = rss();
        println!(
            "TLS {ver} request {big}: size_of Tls {} Connection {}; RSS {} -> {} KiB, per conn {:.2} KiB",
            size_of::<Tls>(),
            size_of::<Connection>(),
            before,
            after,
            (after - before) as f64 / n as f64
        );
    });
    child.kill().unwrap();
    child.wait().unwrap();
    std::mem::forget(rt);
    std::process::exit(0);
}
