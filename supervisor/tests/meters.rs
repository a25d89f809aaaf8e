//! Figures of edges, from real processes.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;
use support::{Host, wait_for};

const PORT: u16 = 18_191;

/// The whole answer to a request over this stream.
fn ask(mut stream: impl Read + Write, request: &str) -> String {
    let head = "Host: x\r\nConnection: close";
    write!(stream, "GET {request}\r\n{head}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(path_and_headers: &str) -> String {
    let stream = wait_for("the gateway", || {
        std::net::TcpStream::connect(("127.0.0.1", PORT)).ok()
    });
    ask(stream, path_and_headers)
}

fn control(host: &Host, path: &str) -> String {
    let socket = host.root.join("run").join("control.sock");
    ask(
        UnixStream::connect(socket).unwrap(),
        &format!("{path} HTTP/1.0"),
    )
}

/// The edge from the gateway to kv.
fn edge(host: &Host) -> Value {
    let report: Value = serde_json::from_str(&host.must(&["edges", "--json"])).unwrap();
    let edges = report["edges"].as_array().unwrap();
    let from_gateway = edges.iter().find(|edge| edge["consumer"] == "gateway");
    from_gateway.unwrap_or_else(|| panic!("{report}")).clone()
}

#[test]
fn an_edges_counts_outlive_the_daemon() {
    let mut host = Host::start();
    host.install_kv("1.0.0");
    host.install_gateway(PORT);
    host.must(&["start", "kv", "gateway"]);
    for _ in 0..20 {
        assert!(get("/kv/a HTTP/1.1").contains(" 404 "));
    }
    let before = edge(&host);
    assert_eq!(before["provider"], "kv");
    assert_eq!(before["contract"], "kv@1");
    assert_eq!(
        (&before["calls"], &before["in-flight"]),
        (&20.into(), &0.into())
    );
    assert_eq!(before["errors"], Value::Object(Default::default()));
    assert!(before["p50-ns"].as_u64() > Some(0));
    assert!(before["queue-p99-ns"].is_u64(), "kv counts, too: {before}");
    let text = host.must(&["edges", "gateway"]);
    assert!(text.contains("gateway -> kv kv@1"), "{text}");

    host.kill_daemon();
    for _ in 0..5 {
        get("/kv/a HTTP/1.1");
    }
    host.start_daemon();
    host.wait_for_state("gateway", "READY");
    let after = wait_for("the edge of the living", || {
        let edge = edge(&host);
        (edge["calls"].as_u64() >= Some(25)).then_some(edge)
    });
    assert_eq!(after["calls"], 25);
    assert!(after["queue-p99-ns"].is_u64());

    let metrics = control(&host, "/metrics");
    let line = "insula_edge_calls_total{consumer=\"gateway\",provider=\"kv\",contract=\"kv@1\",\
                outcome=\"ok\"} 25\n";
    assert!(metrics.contains(line), "{metrics}");
    let line = "insula_edge_queue_delay_seconds_count{consumer=\"gateway\",provider=\"kv\",\
                contract=\"kv@1\"} 25\n";
    assert!(metrics.contains(line), "{metrics}");
}
