//! Programs for the kernel that decide, call by call, what a process may ask of it (seccomp(2)).
//!
//! A program is a tree: first by the number of the call, in halves, so that neither installing it
//! nor a call costs more than a dozen steps; then, where that decides, by arguments. Nothing here
//! knows what is allowed: see `calls`. Written out, and not by a crate, because what a call answers
//! differs from call to call and whole ranges of numbers are refused, which the crates at hand
//! cannot say.
//!
//! Only the lower half of an argument is looked at: all that is asked about is an `int` for the
//! kernel. What a pointer points to is out of reach of such a program.

use std::collections::BTreeMap;

use libc::sock_filter as Instruction;

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is made.
    Allow,
    /// It is not made, and this is its error.
    Refuse(i32),
    /// The process is killed.
    Kill,
    /// Its argument decides.
    Ask(Box<Question>),
}

/// Whether an argument, of which only some bits count, is one of some values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// 0 is the first.
    pub(super) argument: u32,
    /// The bits that count.
    pub(super) bits: u32,
    pub(super) values: Vec<u32>,
    pub(super) yes: Decision,
    pub(super) no: Decision,
}

impl Decision {
    /// `self` where the argument is one of these; else the call fails with this error.
    pub(super) fn if_one_of(self, argument: u32, bits: u32, values: &[u32], error: i32) -> Self {
        Self::Ask(Box::new(Question {
            argument,
            bits,
            values: values.to_vec(),
            yes: self,
            no: Self::Refuse(error),
        }))
    }
}

/// Offsets in the kernel's `seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_*` of `linux/audit.h`; both put the lower half of an argument first.
const OWN_ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else {
    None
};

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const MASK: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const GO: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn plain(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Goes on after `skipped` more instructions if the test holds, with the next one if not.
fn branch(code: u16, k: u32, skipped: usize) -> Vec<Instruction> {
    match u8::try_from(skipped) {
        Ok(jt) => vec![Instruction { code, jt, jf: 0, k }],
        // Too far for a branch: it goes around a jump.
        Err(_) => vec![
            Instruction {
                code,
                jt: 0,
                jf: 1,
                k,
            },
            plain(GO, skipped as u32),
        ],
    }
}

fn decide(decision: &Decision) -> Vec<Instruction> {
    let end = |verdict: u32| vec![plain(RETURN, verdict)];
    match decision {
        Decision::Allow => end(libc::SECCOMP_RET_ALLOW),
        Decision::Refuse(error) => end(libc::SECCOMP_RET_ERRNO | error.unsigned_abs()),
        Decision::Kill => end(libc::SECCOMP_RET_KILL_PROCESS),
        Decision::Ask(question) => {
            let (yes, no) = (decide(&question.yes), decide(&question.no));
            let mut program = vec![plain(LOAD, ARGUMENTS + 8 * question.argument)];
            if question.bits != u32::MAX {
                program.push(plain(MASK, question.bits));
            }
            // From the last to the first, since how far it is depends on what follows.
            let mut rest = no;
            let mut tests = Vec::new();
            for value in question.values.iter().rev() {
                let test = branch(IF_EQUAL, *value, rest.len() + tests.len());
                tests.splice(0..0, test);
            }
            program.append(&mut tests);
            program.append(&mut rest);
            program.extend(yes);
            program
        }
    }
}

/// The numbers from the first of each on, up to the next.
fn search(ranges: &[(u32, &Decision)]) -> Vec<Instruction> {
    let [(_, only)] = ranges else {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let below = search(low);
        let mut program = branch(IF_LEAST, high[0].0, below.len());
        program.extend(below);
        program.extend(search(high));
        return program;
    };
    decide(only)
}

/// The program for decisions that hold from a number on, up to the next one named; the first is 0.
///
/// A call of another architecture than this program's kills. `None` where the architecture is none
/// of those whose numbers were looked at.
pub(super) fn program(from: &BTreeMap<u32, Decision>) -> Option<Vec<Instruction>> {
    let own = OWN_ARCHITECTURE?;
    assert_eq!(from.keys().next(), Some(&0), "every number has a decision");
    let mut ranges: Vec<(u32, &Decision)> = from.iter().map(|(start, of)| (*start, of)).collect();
    ranges.dedup_by(|next, before| next.1 == before.1);
    let mut program = vec![plain(LOAD, ARCHITECTURE)];
    program.extend(branch(IF_EQUAL, own, 1));
    program.extend(decide(&Decision::Kill));
    program.push(plain(LOAD, NUMBER));
    program.extend(search(&ranges));
    Some(program)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the kernel would do, step by step; and how many steps it takes.
    pub(in crate::launch) fn run(
        program: &[Instruction],
        architecture: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> (u32, usize) {
        let (mut at, mut held, mut steps) = (0, 0_u32, 0);
        loop {
            let step = &program[at];
            (at, steps) = (at + 1, steps + 1);
            let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
            match step.code {
                LOAD if step.k == NUMBER => held = number,
                LOAD if step.k == ARCHITECTURE => held = architecture,
                LOAD => held = arguments[((step.k - ARGUMENTS) / 8) as usize] as u32,
                MASK => held &= step.k,
                IF_EQUAL => at += jump(held == step.k),
                IF_LEAST => at += jump(held >= step.k),
                GO => at += step.k as usize,
                RETURN => return (step.k, steps),
                other => panic!("no such instruction: {other}"),
            }
        }
    }

    pub(in crate::launch) fn own() -> u32 {
        OWN_ARCHITECTURE.expect("tests run where there is a filter")
    }

    #[test]
    fn every_number_meets_its_decision_in_few_steps_and_another_architecture_none() {
        let asks = Decision::Allow.if_one_of(1, 0xf0, &[0x10, 0x30], 5);
        let mut from = BTreeMap::from([(0, Decision::Allow)]);
        for number in (3..1500).step_by(3) {
            from.insert(number, Decision::Refuse(1 + (number % 7) as i32));
            from.insert(number + 1, Decision::Allow);
        }
        from.insert(600, asks.clone());
        from.insert(2000, Decision::Kill);
        let program = program(&from).unwrap();
        for number in 0..2100 {
            let (_, decision) = from.range(..=number).next_back().unwrap();
            for (second, holds) in [(0x1234_0010_u64, true), (0x3f, true), (0x20, false)] {
                let mut arguments = [7 << 32; 6];
                arguments[1] |= second;
                let expected = match decision {
                    Decision::Allow => libc::SECCOMP_RET_ALLOW,
                    Decision::Refuse(error) => libc::SECCOMP_RET_ERRNO | *error as u32,
                    Decision::Kill => libc::SECCOMP_RET_KILL_PROCESS,
                    Decision::Ask(_) if holds => libc::SECCOMP_RET_ALLOW,
                    Decision::Ask(_) => libc::SECCOMP_RET_ERRNO | 5,
                };
                let (verdict, steps) = run(&program, own(), number, arguments);
                assert_eq!(verdict, expected, "{number}");
                assert!(steps < 40, "{steps}");
                let (other, _) = run(&program, own() ^ 1, number, arguments);
                assert_eq!(other, libc::SECCOMP_RET_KILL_PROCESS);
            }
        }
    }
}
