//! Places in the image's file that scenarios change, to have another image: its head, with the version, and
//! functions that each start runs through.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

/// The functions, by the names that scenarios have for them: one before the kernel has its own tables of
/// exceptions, and one after that, before it serves.
const FUNCTIONS: [(&str, &str); 2] = [
    ("EARLY", "xen_pvh_boot_main"),
    ("LATER", "spindle::settings::collect"),
];

/// Assignments for a shell: each place's name, and where it is in the file at `kernel`, in bytes.
///
/// # Errors
/// If the file, or the one with symbols beside it, has no such places.
pub(super) fn assignments(kernel: &Path) -> Result<String> {
    let image = fs::read(kernel).with_context(|| format!("read {}", kernel.display()))?;
    let magic = b"SpindleI";
    let head = image
        .windows(magic.len())
        .position(|bytes| bytes == magic)
        .context("the image has no head")?;
    let symbols = kernel.with_file_name("spindle.debug.elf");
    let sh = Shell::new()?;
    let symbols = cmd!(sh, "nm -C {symbols}").quiet().read()?;
    let mut text = format!("HEAD={head}");
    for (name, function) in FUNCTIONS {
        let mut lines = symbols.lines().filter_map(|line| {
            let (address, rest) = line.split_once(' ')?;
            let (_, symbol) = rest.split_once(' ')?;
            (symbol == function).then(|| u64::from_str_radix(address, 16))
        });
        let address = lines.next().with_context(|| format!("no {function}"))??;
        // The first segment that is loaded begins with the head, and has all code.
        let start = image.get(head + 24..head + 32).context("cut off")?;
        let start = u64::from_le_bytes(start.try_into()?);
        let at = address.checked_sub(start).context("before the image")?;
        text.push_str(&format!(" {name}={}", head as u64 + at));
    }
    text.push('\n');
    Ok(text)
}
