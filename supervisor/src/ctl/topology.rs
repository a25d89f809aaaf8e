//! `topology`: a picture of the host, and who sits where.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use insula_core::placement::CpuSet;

use super::Exit;
use super::client::{Client, ClientError};
use crate::places::Picture;

pub(super) async fn run(client: &Client, json: bool) -> Result<Exit, ClientError> {
    let picture: Picture = client.get("/v1/topology").await?;
    if json {
        let text = serde_json::to_string_pretty(&picture);
        println!("{}", text.unwrap_or_default());
    } else {
        print!("{}", text(&picture));
    }
    Ok(Exit::Done)
}

fn text(picture: &Picture) -> String {
    let mut text = String::new();
    let topology = &picture.topology;
    if !picture.labels.is_empty() {
        let _ = writeln!(text, "this host is {}", picture.labels.join(", "));
    }
    for node in &topology.nodes {
        let _ = writeln!(text, "node {}: {} MiB", node.id, node.memory >> 20);
        let mut groups: BTreeMap<u32, BTreeMap<u32, Vec<_>>> = BTreeMap::new();
        for cpu in topology.cpus.iter().filter(|cpu| cpu.node == node.id) {
            let group = groups.entry(cpu.l3).or_default();
            group.entry(cpu.core).or_default().push(cpu);
        }
        for cores in groups.values() {
            let all = cores.values().flatten().map(|cpu| cpu.id);
            let _ = writeln!(text, "  cache group of CPUs {}", all.collect::<CpuSet>());
            // Cores next to each other with the same use are one line.
            let mut lines: Vec<(String, Vec<u32>)> = Vec::new();
            for threads in cores.values() {
                let use_of = match picture.owners.get(&threads[0].id) {
                    Some(owner) => format!("own of {owner}"),
                    None if threads.iter().all(|cpu| !cpu.allowed) => "not to be used".to_owned(),
                    None if threads.iter().all(|cpu| cpu.isolated) => "isolated, free".to_owned(),
                    None => "shared".to_owned(),
                };
                let cpus = threads.iter().map(|cpu| cpu.id);
                match lines.last_mut().filter(|(last, _)| *last == use_of) {
                    Some((_, all)) => all.extend(cpus),
                    None => lines.push((use_of, cpus.collect())),
                }
            }
            for (use_of, cpus) in lines {
                let cpus: CpuSet = cpus.into_iter().collect();
                let _ = writeln!(text, "    {:<12} {use_of}", cpus.to_string());
            }
        }
    }
    if !topology.offline.is_empty() {
        let _ = writeln!(text, "offline: {}", topology.offline);
    }
    if !picture.seats.is_empty() {
        let _ = writeln!(
            text,
            "\n{:<24} {:<12} {:<16} {:>9}  memory from",
            "instance", "profile", "cpus", "memory"
        );
    }
    for seat in &picture.seats {
        let own = if seat.own.is_some() { " (own)" } else { "" };
        let memory = match seat.memory {
            0 => "-".to_owned(),
            bytes => format!("{} MiB", bytes >> 20),
        };
        let _ = writeln!(
            text,
            "{:<24} {:<12} {:<16} {memory:>9}  {}",
            seat.instance,
            seat.profile,
            format!("{}{own}", seat.cpus),
            seat.from
        );
    }
    for waiting in &picture.waiting {
        let _ = writeln!(text, "{} waits for room: {}", waiting.instance, waiting.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use insula_core::placement::Topology;

    use super::*;
    use crate::places::{SeatRow, Waiting};

    #[test]
    fn a_picture_shows_each_core_and_who_has_it() {
        let mut topology = Topology::uniform(2, 1, 3, 2, 4 << 30);
        for cpu in &mut topology.cpus {
            cpu.isolated = cpu.core == 2;
            cpu.allowed = cpu.core != 3;
        }
        let row = |instance: &str, cpus: &str, own: Option<&str>| SeatRow {
            instance: instance.to_owned(),
            profile: "alone".to_owned(),
            cpus: cpus.to_owned(),
            own: own.map(str::to_owned),
            memory: 1 << 30,
            from: "node 1 only".to_owned(),
        };
        let picture = Picture {
            schema: 1,
            labels: vec!["numa".to_owned(), "smt".to_owned()],
            shared: "0-1,4,6-7,10".to_owned(),
            owners: [(5, "db:0".to_owned()), (11, "db:0".to_owned())].into(),
            seats: vec![row("db:0", "5,11", Some("5,11")), row("kv:0", "0-1", None)],
            waiting: vec![Waiting {
                instance: "late:0".to_owned(),
                why: "asks for 9 exclusive cores".to_owned(),
            }],
            topology,
        };
        let expected = "\
this host is numa, smt
node 0: 4096 MiB
  cache group of CPUs 0-2,6-8
    0-1,6-7      shared
    2,8          isolated, free
node 1: 4096 MiB
  cache group of CPUs 3-5,9-11
    3,9          not to be used
    4,10         shared
    5,11         own of db:0

instance                 profile      cpus                memory  memory from
db:0                     alone        5,11 (own)        1024 MiB  node 1 only
kv:0                     alone        0-1               1024 MiB  node 1 only
late:0 waits for room: asks for 9 exclusive cores
";
        assert_eq!(text(&picture), expected);
    }
}
