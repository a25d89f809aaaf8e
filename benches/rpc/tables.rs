//! The figures as Markdown, to be pasted into README.md.

use crate::cases::{Case, Pattern, Peer, Placement, SIZES, Waiting, size_text};
use crate::figures::{Figure, Figures, Row};

const TIMED: &str = "\
Timed: from before the client writes its request until it has read every byte of the answer; the \
server reads every byte of the request and gives the same bytes back. CPU is user and system time \
of both processes, spinning counted. Figures are medians over the rounds; `rounds` are the least \
and the greatest p50 of a round; ratios are medians of the rounds' ratios.";

/// Prints all tables.
pub(crate) fn print(figures: &Figures, all: bool) {
    println!("{TIMED}");
    serial(figures, "64 B, one call at a time", |case| {
        case.pattern == Pattern::Serial && case.size == 64
    });
    if all {
        serial(figures, "Every other case", |case| {
            case.pattern == Pattern::Serial && case.size != 64
        });
    }
    for placement in Placement::ALL {
        by_size(figures, placement, "p50", |m| m.p50, time);
        by_size(
            figures,
            placement,
            "CPU for 1,000 calls",
            |m| m.cpu_us,
            micros,
        );
    }
    parts(figures);
    burst(figures);
    claims(figures);
    for skipped in &figures.skipped {
        println!("\n{skipped}");
    }
}

fn time(ns: f64) -> String {
    match ns {
        1e6.. => format!("{:.2} ms", ns / 1e6),
        1e4.. => format!("{:.1} us", ns / 1e3),
        _ => format!("{ns:.0} ns"),
    }
}

fn micros(us: f64) -> String {
    time(us * 1e3)
}

fn rate(per_second: f64) -> String {
    match per_second {
        1e6.. => format!("{:.2} M/s", per_second / 1e6),
        1e3.. => format!("{:.1} k/s", per_second / 1e3),
        _ => format!("{per_second:.0} /s"),
    }
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"))
}

fn system_calls(row: &Row) -> String {
    row.system_calls
        .map_or("-".to_owned(), |calls| format!("{calls:.2}"))
}

/// The case of Insula that a peer's case is compared with.
fn own(peer: Case) -> Case {
    Case {
        peer: Peer::Insula,
        ..peer
    }
}

fn serial(figures: &Figures, title: &str, wanted: impl Fn(Case) -> bool) {
    let mut rows: Vec<&Row> = figures.rows().filter(|row| wanted(row.case)).collect();
    if rows.is_empty() {
        return;
    }
    rows.sort_by_key(|row| (row.case.size, row.case.placement.cores()));
    println!("\n**{title}**\n");
    println!(
        "| who | cores | payload | p50 | p90 | p99 | rate | CPU for 1,000 | system calls | rounds \
         | Insula to it |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        let case = row.case;
        let (least, most) = row.spread(|m| m.p50);
        println!(
            "| {}, {} | {} | {} | {} | {} | {} | {} | {} | {} | {}-{} | {} |",
            case.peer.title(),
            case.waiting.name(),
            case.placement.cores(),
            size_text(case.size),
            time(row.median(|m| m.p50)),
            time(row.median(|m| m.p90)),
            time(row.median(|m| m.p99)),
            rate(row.median(|m| m.rate)),
            micros(row.median(|m| m.cpu_us)),
            system_calls(row),
            time(least),
            time(most),
            match case.peer {
                Peer::Insula => String::new(),
                _ => times(figures.ratio(|m| m.p50, own(case), &[case])),
            },
        );
    }
}

/// A row per peer, a column per payload.
fn by_size(
    figures: &Figures,
    placement: Placement,
    title: &str,
    figure: Figure,
    text: fn(f64) -> String,
) {
    let of = |row: &&Row| row.case.placement == placement && row.case.pattern == Pattern::Serial;
    let mut lines: Vec<Case> = Vec::new();
    for case in figures.rows().filter(of).map(|row| row.case) {
        let line = Case { size: 0, ..case };
        if case.size != 64 && !lines.contains(&line) {
            lines.push(line);
        }
    }
    if lines.is_empty() {
        return;
    }
    println!("\n**{title} by payload, cores: {}**\n", placement.cores());
    let sizes = SIZES.map(size_text);
    println!("| who | {} |", sizes.join(" | "));
    println!("|---|---|---|---|---|---|---|");
    for line in lines {
        let cells = SIZES.map(|size| {
            let row = figures.row(Case { size, ..line });
            row.map_or("-".to_owned(), |row| text(row.median(figure)))
        });
        let (who, waiting) = (line.peer.title(), line.waiting.name());
        println!("| {who}, {waiting} | {} |", cells.join(" | "));
    }
}

/// The transport alone, and what belongs to the payload.
fn parts(figures: &Figures) {
    let rows: Vec<&Row> = figures
        .rows()
        .filter(|row| row.case.pattern == Pattern::Parts)
        .collect();
    if rows.is_empty() {
        return;
    }
    println!(
        "\n**In place: the transport alone, with what filling and reading the payloads took left \
         out of it and beside it.** Both ways together; the transport includes about eight \
         readings of the clock.\n"
    );
    println!("| who | cores | payload | transport p50 | to that of 64 B | fill | read |");
    println!("|---|---|---|---|---|---|---|");
    for row in rows {
        let case = row.case;
        println!(
            "| {}, {} | {} | {} | {} | {} | {} | {} |",
            case.peer.title(),
            case.waiting.name(),
            case.placement.cores(),
            size_text(case.size),
            time(row.median(|m| m.p50)),
            times(figures.ratio(|m| m.p50, case, &[Case { size: 64, ..case }])),
            time(row.median(|m| m.fill_ns)),
            time(row.median(|m| m.read_ns)),
        );
    }
}

fn burst(figures: &Figures) {
    let rows: Vec<&Row> = figures
        .rows()
        .filter(|row| row.case.pattern.is_burst())
        .collect();
    if rows.is_empty() {
        return;
    }
    println!(
        "\n**Pipelined: 64 B, several calls outstanding at any time, one thread on each side**\n"
    );
    println!(
        "| who | cores | outstanding | rate | rounds | CPU for 1,000 | system calls | Insula's rate to it |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for row in rows {
        let case = row.case;
        let (least, most) = row.spread(|m| m.rate);
        println!(
            "| {}, {} | {} | {} | {} | {}-{} | {} | {} | {} |",
            case.peer.title(),
            case.waiting.name(),
            case.placement.cores(),
            case.pattern.outstanding(),
            rate(row.median(|m| m.rate)),
            rate(least),
            rate(most),
            micros(row.median(|m| m.cpu_us)),
            system_calls(row),
            match case.peer {
                Peer::Insula => String::new(),
                _ => times(figures.ratio(|m| m.rate, own(case), &[case])),
            },
        );
    }
}

fn claims(figures: &Figures) {
    println!("\n| claim | measured | to reach |\n|---|---|---|");
    let claim = |claim: &str, measured: Option<f64>, reach: &str| {
        if let Some(measured) = measured {
            println!("| {claim} | {measured:.2}x | {reach} |");
        }
    };
    let serial =
        |peer, waiting, placement| Case::new(peer, waiting, placement, Pattern::Serial, SIZES[0]);
    let spinning = serial(Peer::Insula, Waiting::Spinning, Placement::TwoCores);
    let raw = serial(Peer::Raw, Waiting::Spinning, Placement::TwoCores);
    let p50: Figure = |m| m.p50;
    claim(
        "64 B, spinning, p50 against raw iceoryx2",
        figures.ratio(p50, spinning, &[raw]),
        "at most 1.25x",
    );
    let metered = serial(Peer::Metered, Waiting::Spinning, Placement::TwoCores);
    if let Some(more) = figures.difference(p50, metered, spinning) {
        println!(
            "| 64 B, spinning, p50 with meters and a trace beside without | {more:+.0} ns | at most 50 ns |"
        );
    }
    for placement in Placement::ALL {
        let cores = placement.cores();
        let parked = serial(Peer::Insula, Waiting::Parked, placement);
        let futex = serial(Peer::Futex, Waiting::Parked, placement);
        claim(
            &format!("64 B, parked, cores: {cores}, p50 against bare futex plus spinning"),
            figures.ratio(p50, parked, &[futex, spinning]),
            "at most 1.15x",
        );
        let unix = serial(Peer::Unix, Waiting::Parked, placement);
        claim(
            &format!("64 B, parked, cores: {cores}, p50 against a Unix stream socket"),
            figures.ratio(p50, parked, &[unix]),
            match placement {
                Placement::OneCore => "well below 1x",
                Placement::TwoCores => "at most 1x",
            },
        );
    }
    flatness(figures, Waiting::Spinning, Placement::TwoCores);
    flatness(figures, Waiting::Parked, Placement::OneCore);
    for placement in Placement::ALL {
        let cores = placement.cores();
        let parked = serial(Peer::Insula, Waiting::Parked, placement);
        let tonic = serial(Peer::Tonic, Waiting::Parked, placement);
        let both = |figure: Figure, pattern| {
            let (own, peer) = (Case { pattern, ..parked }, Case { pattern, ..tonic });
            figures.ratio(figure, own, &[peer])
        };
        let of = |what: &str| format!("64 B, parked, cores: {cores}, {what} against gRPC");
        let p50_ratio = both(p50, Pattern::Serial).map(|ratio| 1.0 / ratio);
        claim(&of("p50 shorter"), p50_ratio, "at least 10x");
        for (pattern, how) in [
            (Pattern::Serial, "one at a time"),
            (Pattern::Burst16, "16 at a time"),
        ] {
            let rate = both(|m| m.rate, pattern);
            claim(&of(&format!("rate {how}")), rate, "at least 3x");
            let cpu = both(|m| m.cpu_us, pattern);
            claim(&of(&format!("CPU {how}")), cpu, "at most 0.33x");
        }
    }
    let tonic = serial(Peer::Tonic, Waiting::Parked, Placement::TwoCores);
    let p50_ratio = figures.ratio(p50, spinning, &[tonic]);
    claim(
        "64 B, spinning, cores: 2, p50 shorter than gRPC",
        p50_ratio.map(|ratio| 1.0 / ratio),
        "at least 10x",
    );
    for pattern in [Pattern::Burst16, Pattern::Burst128] {
        let case = Case {
            pattern,
            ..spinning
        };
        if let Some(row) = figures.row(case) {
            println!(
                "| 64 B, spinning, {} at a time, one client to one server core | {} | 1 M/s |",
                pattern.outstanding(),
                rate(row.median(|m| m.rate)),
            );
        }
    }
}

/// The longest transport of 64 B to 1 MiB to that of 64 B.
fn flatness(figures: &Figures, waiting: Waiting, placement: Placement) {
    let case = |size| Case::new(Peer::Insula, waiting, placement, Pattern::Parts, size);
    let ratios = SIZES[1..5]
        .iter()
        .map(|size| figures.ratio(|m| m.p50, case(*size), &[case(SIZES[0])]))
        .collect::<Option<Vec<f64>>>();
    if let Some(ratios) = ratios {
        let most = ratios.iter().copied().fold(0.0, f64::max);
        println!(
            "| in place, 64 B to 1 MiB, {}, cores: {}, longest transport to that of 64 B \
             | {most:.2}x | at most 1.10x |",
            waiting.name(),
            placement.cores(),
        );
    }
}
