//! The program that every contestant supervises: it says when its first instruction ran, and
//! waits for ever.
//!
//! Built by the bench with rustc alone: static, without a C library, so that nothing but the
//! kernel runs before it. It asks for the time, attaches the page of stamps (System V shared
//! memory: no file that a wall would have to let through), fills in its slot, and stops or ends.
//!
//! ```text
//! payload PAGE:SLOT     waits
//! payload PAGE:SLOT:x   ends at once, with 1
//! ```
//!
//! It is one argument so that a script can name this program as its interpreter.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, Ordering};

#[repr(C)]
struct Slot {
    count: AtomicU32,
    pid: AtomicI32,
    time: AtomicI64,
}

const CLOCK_MONOTONIC: usize = 1;

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {run}",
    "ud2",
    run = sym run,
);

fn call(number: usize, first: usize, second: usize, third: usize) -> isize {
    let result;
    // SAFETY: the calls that are made write to nothing but what their arguments name.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

fn exit(code: usize) -> ! {
    loop {
        call(231, code, 0, 0);
    }
}

/// Reads a number and steps over what follows it.
///
/// # Safety
/// `text` points into a text that ends with a NUL.
unsafe fn number(text: &mut *const u8) -> usize {
    let mut value = 0;
    // SAFETY: the text goes on until a byte that is no digit, the NUL at the latest.
    unsafe {
        while (**text).is_ascii_digit() {
            value = value * 10 + usize::from(**text - b'0');
            *text = text.add(1);
        }
        if **text != 0 {
            *text = text.add(1);
        }
    }
    value
}

extern "C" fn run(stack: *const *const u8) -> ! {
    let mut time = [0_i64; 2];
    call(228, CLOCK_MONOTONIC, time.as_mut_ptr() as usize, 0);
    // SAFETY: as the kernel begins a process: the number of arguments, then their pointers, of
    // which the bench gives the second.
    let (page, slot, word) = unsafe {
        let mut text = *stack.add(2);
        let (page, slot) = (number(&mut text), number(&mut text));
        (page, slot, *text)
    };
    let at = call(30, page, 0, 0);
    if at < 0 {
        exit(111);
    }
    // SAFETY: the page was attached just now and has this slot, which is this process's own.
    let slot = unsafe { &*(at as *const Slot).add(slot) };
    slot.pid.store(call(39, 0, 0, 0) as i32, Ordering::Relaxed);
    slot.time
        .store(time[0] * 1_000_000_000 + time[1], Ordering::Relaxed);
    slot.count.fetch_add(1, Ordering::Release);
    if word == b'x' {
        exit(1);
    }
    loop {
        call(34, 0, 0, 0);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(112)
}
