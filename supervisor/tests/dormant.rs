//! Services that nobody uses are put away, and whoever uses them finds them.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use insula_ipc::client::CallOptions;
use insula_ipc::dynamic::DynamicClient;
use serde_json::{Value, json};
use support::{Host, WATCHDOG, path, wait_for};

/// The shortest time after which a service is put away.
const AFTER: &str = "dormant-after = \"100ms\"\n";

/// A free port that no connection is given by chance while nobody listens there.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 5_000) as u16;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Says by the host's file of a service when it is put away.
fn puts_away(host: &Host, name: &str, after: &str) {
    let services = host.root.join("etc/services");
    fs::create_dir_all(&services).unwrap();
    fs::write(
        services.join(format!("{name}.toml")),
        format!("[run]\n{after}"),
    )
    .unwrap();
    host.must(&["update"]);
}

fn sleeps(host: &Host, name: &str) {
    let row = host.wait_for_state(name, "DORMANT");
    assert_eq!(
        (&row["pid"], &row["code"]),
        (&Value::Null, &json!(3)),
        "{row}"
    );
}

/// A client of a contract that holds its edge for as long as it lives.
struct Client {
    contract: insula_contract::id::ContractId,
    local: insula_ipc::local::LocalClient,
    schema: insula_contract::schema::Schema,
}

impl Client {
    fn of(host: &Host, contract: &str) -> Self {
        let contract = contract.parse().unwrap();
        // Who asks what a service is like wakes it, and does not wait for it for ever.
        let (local, schema) = wait_for("the service to say what it is like", || {
            let local = host.local();
            let (_, schema) = local.describe(&contract).ok()?;
            Some((local, schema))
        });
        Self {
            contract,
            local,
            schema,
        }
    }

    fn call(&self, method: &str, request: &Value) -> Value {
        let edge = self.local.edge_of(&self.contract, &self.schema).unwrap();
        let client = DynamicClient::connect(&edge, self.schema.clone()).unwrap();
        let options = CallOptions {
            deadline: Some(WATCHDOG),
            ..Default::default()
        };
        client.call(method, request, options).unwrap()
    }
}

#[test]
fn the_first_call_of_a_program_of_the_host_wakes_it_and_so_do_orders() {
    let mut host = Host::start();
    for version in ["1.0.0", "1.1.0"] {
        let manifest = format!(
            "name = \"echo\"\nversion = \"{version}\"\n[run]\nprofile = \"shared\"\n\
             command = [\"bin/echo\"]\n[provides.\"echo@1\"]\nallow = [\"*\"]\n"
        );
        let release = host.release(&format!("echo-{version}"), &manifest, &["echo"]);
        host.must(&["install", path(&release)]);
    }
    host.must(&["start", "echo"]);
    puts_away(&host, "echo", AFTER);
    let client = Client::of(&host, "echo@1");
    let mut seen = std::collections::BTreeSet::new();
    for round in 1..=3 {
        sleeps(&host, "echo");
        let answer = client.call("count", &json!({ "by": round }));
        // A process of its own each time, which has counted nothing before.
        assert_eq!(answer["count"], round, "{answer}");
        assert!(seen.insert(answer["attempt"].as_u64()), "{answer}");
    }
    sleeps(&host, "echo");
    let why = host.must(&["why", "echo"]);
    assert!(why.contains("echo is DORMANT: nobody used it"), "{why}");
    let used = host.must(&["utilisation", "--over", "100ms"]);
    assert!(used.contains("idle services: 1 put away"), "{used}");
    let said = wait_for("an answer", || {
        let output = host.ctl(&["call", "echo@1", "count", "{\"by\":1}"]);
        // As above.
        (output.status.code() != Some(75)).then_some(output)
    });
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("\"count\": 1"), "{said}");

    sleeps(&host, "echo");
    assert_eq!(host.must(&["start", "echo"]), "echo: started\n");
    sleeps(&host, "echo");
    assert!(host.must(&["restart", "echo"]).contains("restarted"));
    sleeps(&host, "echo");
    assert!(host.must(&["upgrade", "echo"]).contains("1.0.0 -> 1.1.0"));
    sleeps(&host, "echo");
    assert_eq!(host.row("echo")["version"], "1.1.0");

    // The next daemon leaves it where it is, until it is called.
    host.kill_daemon();
    host.start_daemon();
    sleeps(&host, "echo");
    assert_eq!(host.row("echo")["version"], "1.1.0");
    let client = Client::of(&host, "echo@1");
    sleeps(&host, "echo");
    assert_eq!(client.call("count", &json!({ "by": 3 }))["count"], 3);

    sleeps(&host, "echo");
    host.must(&["stop", "echo"]);
    assert_eq!(host.row("echo")["state"], "STOPPED");
    host.must(&["start", "echo"]);
    sleeps(&host, "echo");
    puts_away(&host, "echo", "dormant-after = \"never\"\n");
    host.wait_for_state("echo", "READY");
}

#[test]
fn no_write_is_lost_or_doubled_while_a_store_comes_and_goes() {
    let host = Host::start();
    host.install_kv("1.0.0");
    host.must(&["start", "kv"]);
    puts_away(&host, "kv", AFTER);
    let client = Client::of(&host, "kv@1");
    let mut written = 0_u64;
    let mut write = || {
        written += 1;
        let request = json!({ "key": format!("key-{written}"), "value": "one" });
        let revision = client.call("put", &request)["revision"].as_u64();
        assert_eq!(revision, Some(written), "each write counts once");
    };
    for round in 0..20_u64 {
        sleeps(&host, "kv");
        write();
        // The next one comes about when it is put away.
        std::thread::sleep(Duration::from_millis(80 + round * 6));
        write();
    }
    let stats = client.call("stats", &Value::Null);
    assert_eq!(stats["entries"], written, "{stats}");
    assert!(stats["epoch"].as_u64() > Some(20), "{stats}");
}

#[test]
fn a_service_wakes_what_it_calls_and_stays_ready_while_that_sleeps() {
    let host = Host::start();
    host.install_kv("1.0.0");
    host.must(&["start", "kv"]);
    let address = free_address();
    host.install_gateway(address.port());
    host.must(&["start", "gateway"]);
    puts_away(&host, "kv", AFTER);
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    };
    let gateway = host.pid("gateway");
    for round in 0..3 {
        sleeps(&host, "kv");
        assert_eq!(host.row("gateway")["state"], "READY");
        let put = format!(
            "PUT /kv/a HTTP/1.1\r\nHost: a\r\nX-Request-Timeout-Ms: 55000\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{round}"
        );
        let said = ask(&put);
        assert!(said.starts_with("HTTP/1.1 2"), "{said}");
        sleeps(&host, "kv");
        let said = ask(
            "GET /kv/a HTTP/1.1\r\nHost: a\r\nX-Request-Timeout-Ms: 55000\r\nConnection: close\r\n\r\n",
        );
        assert!(said.ends_with(&round.to_string()), "{said}");
    }
    assert_eq!(host.pid("gateway"), gateway);
}

#[test]
fn who_connects_to_a_held_socket_wakes_its_program_and_is_not_refused() {
    let mut host = Host::start();
    let address = free_address();
    let manifest = format!(
        "name = \"guest\"\nversion = \"1.0.0\"\n[run]\ntype = \"foreign\"\nready = \"notify\"\n\
         command = [\"bin/misbehave\", \"guest\", \"--notify\", \"words\"]\nprofile = \"shared\"\n\
         {AFTER}[run.sockets]\nhttp = \"{address}\"\n"
    );
    let release = host.release("guest", &manifest, &["misbehave"]);
    host.must(&["install", path(&release)]);
    host.must(&["start", "guest"]);
    let ask = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    };
    for _ in 0..3 {
        sleeps(&host, "guest");
        let said = ask();
        assert!(said.ends_with("words\n"), "{said}");
    }
    sleeps(&host, "guest");
    // Its sockets went with the daemon, and are opened again by the next one.
    host.kill_daemon();
    host.start_daemon();
    sleeps(&host, "guest");
    assert!(ask().ends_with("words\n"));
    host.must(&["stop", "guest"]);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn what_could_never_wake_is_not_put_away() {
    let host = Host::start();
    let refused = |name: &str, run: &str| {
        let manifest = format!(
            "name = \"{name}\"\nversion = \"1.0.0\"\n[run]\nprofile = \"shared\"\n\
             command = [\"bin/misbehave\", \"mute\"]\n{AFTER}{run}"
        );
        let release = host.release(name, &manifest, &["misbehave"]);
        let output = host.ctl(&["install", path(&release)]);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused("alone", "type = \"foreign\"\n");
    assert!(
        said.contains("once put away it would stay so: only who connects"),
        "{said}"
    );
    let said = refused("once", "type = \"task\"\n");
    assert!(said.contains("a task ends by itself"), "{said}");
    let said = refused("silent", "");
    assert!(said.contains("it provides no contract"), "{said}");
}
