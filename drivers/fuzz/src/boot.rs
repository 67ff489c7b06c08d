//! The start_info and all it points to are the input; what is taken for RAM must be RAM.

use spindle_config::Config;
use xen_pvh_boot::{BootInfo, MemoryType, PhysRead, words};

/// Where the input lies in physical memory.
const BASE: u64 = 0x20_0000;

struct Memory<'a>(&'a [u8]);

impl PhysRead for Memory<'_> {
    fn read(&self, from: u64, out: &mut [u8]) -> bool {
        let inside = from.checked_sub(BASE).and_then(|at| {
            let at = usize::try_from(at).ok()?;
            self.0.get(at..at.checked_add(out.len())?)
        });
        inside.map(|bytes| out.copy_from_slice(bytes)).is_some()
    }
}

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let Ok(info) = BootInfo::read(&Memory(data), BASE) else {
        return;
    };
    let mut last = 0;
    for range in info.ram.iter() {
        assert!(range.start >= last && range.start < range.end, "in order");
        assert!(range.start >= 1 << 20, "low memory is not ours");
        assert!(range.start.is_multiple_of(4096) && range.end.is_multiple_of(4096));
        last = range.end;
        for entry in info.map.iter().filter(|e| e.kind != MemoryType::RAM) {
            let end = entry.start.saturating_add(entry.size);
            let apart = end <= range.start || range.end <= entry.start;
            assert!(apart || entry.size == 0, "{range:x?} holds {entry:x?}");
        }
        // Both ends are inside some entry of RAM; entries may touch.
        for byte in [range.start, range.end - 1] {
            let holds = |e: &xen_pvh_boot::MapEntry| {
                e.kind == MemoryType::RAM
                    && e.start <= byte
                    && byte < e.start.saturating_add(e.size)
            };
            assert!(info.map.iter().any(holds), "{byte:#x} is not RAM");
        }
    }
    for module in &info.modules {
        assert!(info.ram.contains(module));
    }
    assert!(info.command_line.is_ascii());
    let mut config = Config::default();
    for word in words(&info.command_line) {
        assert!(info.command_line.contains(word.key));
        let _ = config.set(word.key, word.value);
    }
}
