//! The wall clock of one process, set to another time.
//!
//! A program asks for the time in code that the kernel maps into it, its vDSO. That code is replaced, in one process only, by
//! a system call and an offset. The clock that nobody sets, `CLOCK_MONOTONIC`, goes on as it was, as it does when a machine's
//! clock is corrected.
//! Source: Linux, Documentation/ABI/stable/vdso; System V ABI, chapter 5, dynamic section; section 2 of clock_gettime(2).

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use latebind_cluster::eventually;
use rustix::process::{Pid, Signal, kill_process};

/// Whether it is known how to do that here.
pub const CAN_BE_SET: bool = cfg!(target_arch = "x86_64");

const FUNCTION: &[u8] = b"__vdso_clock_gettime";
/// How long a process may take to stand still.
const PATIENCE: Duration = Duration::from_secs(60);
const PT_DYNAMIC: u64 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
/// Sizes of a symbol, of a program header and of an entry of the dynamic section in a 64-bit ELF file.
const SYMBOL: usize = 24;
const HEADER: usize = 56;
const ENTRY: usize = 16;

/// Sets the wall clock of a process so many seconds ahead of the machine's, or behind it.
pub async fn set(pid: u32, seconds: i32) -> Result<()> {
    let process = Pid::from_raw(pid.cast_signed()).context("a PID")?;
    let (start, end) = mapping(pid)?;
    let memory = fs::File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    let mut image = vec![0; usize::try_from(end - start)?];
    memory.read_exact_at(&mut image, start)?;
    let (place, length) = function(&image).context("the vDSO tells no time")?;
    let code = code(seconds);
    ensure!(code.len() as u64 <= length, "the function is too short to be replaced");
    let place = start + place;
    // No thread may be in the midst of what is replaced.
    eventually("a process to stand still outside of its clock", PATIENCE, async || {
        kill_process(process, Signal::STOP)?;
        let still = eventually("a process to stand still", PATIENCE, async || stands_still(pid)).await?;
        if still.iter().any(|at| (place..place + length).contains(at)) {
            kill_process(process, Signal::CONT)?;
            return Ok(None);
        }
        let written = memory.write_all_at(&code, place);
        kill_process(process, Signal::CONT)?;
        Ok(Some(written?))
    })
    .await
}

/// The system call, and the offset added where the clock is `CLOCK_REALTIME`, which is 0.
fn code(seconds: i32) -> Vec<u8> {
    let mut code = vec![
        0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228: clock_gettime
        0x0f, 0x05, // syscall
        0x85, 0xff, // test edi, edi
        0x75, 0x07, // jne, to the end
        0x48, 0x81, 0x06, // add qword ptr [rsi],
    ];
    code.extend(seconds.to_le_bytes());
    code.push(0xc3); // ret
    code
}

/// Where the vDSO of a process is.
fn mapping(pid: u32) -> Result<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).context("it has no vDSO")?;
    let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).context("a range")?;
    Ok((u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?))
}

/// Where each thread is, once all have stopped.
fn stands_still(pid: u32) -> Result<Option<Vec<u64>>> {
    let mut places = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        let stat = fs::read_to_string(thread.join("stat"))?;
        // Behind the name in parentheses. What waits for a disk does not stop, and is in no code of its own.
        let state = stat.rsplit(") ").next().unwrap_or_default().chars().next();
        let at = fs::read_to_string(thread.join("syscall"))?;
        let at = at.split_whitespace().last().and_then(|at| u64::from_str_radix(at.strip_prefix("0x")?, 16).ok());
        match (state, at) {
            (Some('T' | 'D'), Some(at)) => places.push(at),
            _ => return Ok(None),
        }
    }
    Ok(Some(places))
}

/// Offset and length of the function in the image of a vDSO.
fn function(image: &[u8]) -> Option<(u64, u64)> {
    let (headers, count) = (usize::try_from(number(image, 32, 8)?).ok()?, number(image, 56, 2)?);
    let mut headers = (headers..).step_by(HEADER).take(usize::try_from(count).ok()?);
    let dynamic = headers.find(|at| number(image, *at, 4) == Some(PT_DYNAMIC))?;
    let (offset, length) = (number(image, dynamic + 8, 8)?, number(image, dynamic + 32, 8)?);
    let (first, count) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()? / ENTRY);
    let of = |tag: u64| {
        let at = (first..).step_by(ENTRY).take(count).find(|at| number(image, *at, 8) == Some(tag))?;
        usize::try_from(number(image, at + 8, 8)?).ok()
    };
    let (symbols, strings) = (of(DT_SYMTAB)?, of(DT_STRTAB)?);
    // The names follow the symbols, in every vDSO of this architecture.
    let mut symbols = (symbols..strings).step_by(SYMBOL);
    let symbol = symbols.find(|at| {
        let name = number(image, *at, 4).and_then(|name| image.get(strings + usize::try_from(name).ok()?..));
        name.is_some_and(|name| name.starts_with(FUNCTION) && name.get(FUNCTION.len()) == Some(&0))
    })?;
    Some((number(image, symbol + 8, 8)?, number(image, symbol + 16, 8)?))
}

/// A number of so many bytes.
fn number(image: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = image.get(at..at + length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
