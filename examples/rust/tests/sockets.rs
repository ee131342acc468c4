//! What clients over a socket can do wrong, and what becomes of them: heads and bodies that do not come, nonsense, too many at once,
//! and those that are there when the service is to end.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvgear_service::model::Model;
use kvgear_service::service::sockets::{serve, Clients};
use kvgear_service::service::{Options, Service};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const LONG: Duration = Duration::from_secs(60); // on a machine that is busy with other things

/// A running service.
struct Running {
    at: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<u64>,
}

impl Running {
    fn start(most: usize, patience: Duration) -> Self {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
        let options = Options {
            recipe: "int8".into(),
            max_tokens: 256,
            max_body: 4096,
            max_caches: 4,
            memory_budget: 0,
            parallel: 1,
            patience,
        };
        let service = Arc::new(Service::new(Model::load(&model).unwrap(), options).unwrap());
        let (stop, stopped) = oneshot::channel();
        let (send, receive) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                send.send(listener.local_addr().unwrap()).unwrap();
                let stopped = async { drop(stopped.await) };
                serve(listener, service.clone().router(), Clients { most, patience }, stopped)
                    .await;
            });
            service.memory().unwrap()
        });
        Self { at: receive.recv().unwrap(), stop, thread }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// What is answered to these bytes until the connection is closed.
    fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(request); // it may be closed before it has taken all
        rest(&mut stream)
    }

    fn works(&self) {
        let answer = self.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Ends it, and gives the bytes that caches still hold.
    fn end(self) -> u64 {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

/// All that still comes; a reset counts as the end.
fn rest(stream: &mut TcpStream) -> String {
    let (mut bytes, mut buffer) = (vec![], [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the connection stays open: {error}"),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn completion(body: &str, length: usize) -> Vec<u8> {
    let head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length:";
    format!("{head} {length}\r\n\r\n{body}").into_bytes()
}

#[test]
fn heads_and_bodies_that_do_not_come() {
    let service = Running::start(1024, Duration::from_millis(300));
    let start = Instant::now();
    // Many at once, each a byte now and then: none lives longer for it.
    let slow: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = service.connect();
            thread::spawn(move || {
                for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: 12345678901234567890" {
                    if stream.write_all(&[*byte]).is_err() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(100));
                }
                rest(&mut stream)
            })
        })
        .collect();
    assert_eq!(service.ask(b""), ""); // one that says nothing
    let answer = service.ask(&completion("{\"prompt\":", 100));
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("send it faster"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    service.works();
    for answer in slow {
        let answer = answer.join().unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert!(start.elapsed() < LONG);
    assert_eq!(service.end(), 0);
}

#[test]
fn nonsense_is_answered_with_4xx() {
    let service = Running::start(1024, LONG);
    let close = "Host: x\r\nConnection: close\r\n";
    for (request, status) in [
        ("nonsense\r\n\r\n".to_string(), "400"),
        ("GET / HTTP/9.9\r\n\r\n".into(), "400"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)), "4"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(500)), "431"),
        (format!("POST /v1/completions HTTP/1.1\r\n{close}Content-Length: nine\r\n\r\n"), "400"),
        (format!("POST /v1/completions HTTP/1.1\r\n{close}Content-Length: 99999\r\n\r\n"), "413"),
        (format!("POST /v1/completions HTTP/1.1\r\n{close}\r\n"), "400"),
        (format!("GET /v1/completions HTTP/1.1\r\n{close}\r\n"), "405"),
        (format!("GET /%00%FF HTTP/1.1\r\n{close}\r\n"), "404"),
    ] {
        let answer = service.ask(request.as_bytes());
        let words = request.get(..60).unwrap_or(&request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{words:?}: {answer}");
    }
    service.works();
    assert_eq!(service.end(), 0);
}

#[test]
fn more_clients_than_there_may_be_wait() {
    let patience = Duration::from_millis(500);
    let service = Running::start(2, patience);
    let held = [service.connect(), service.connect()]; // and say nothing
    thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    service.works(); // once patience with those is at its end
    assert!(start.elapsed() > Duration::from_millis(100), "{:?}", start.elapsed());
    drop(held);
    assert_eq!(service.end(), 0);
}

#[test]
fn the_end_waits_for_answers_and_not_for_idle_connections() {
    let service = Running::start(1024, LONG);
    let (at, idle) = (service.at, service.connect());
    let mut busy = service.connect();
    let body = r#"{"prompt": "The last words", "max_tokens": 200, "stream": true}"#;
    busy.write_all(&completion(body, body.len())).unwrap();
    busy.read_exact(&mut [0; 200]).unwrap(); // it has begun
    let start = Instant::now();
    assert_eq!(service.end(), 0);
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
    let answer = rest(&mut busy);
    assert!(answer.contains("data: [DONE]"), "{answer}");
    drop(idle);
    assert!(TcpStream::connect(at).is_err());
}
