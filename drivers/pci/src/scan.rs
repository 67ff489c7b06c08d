//! Finding every function: bus 0 and whatever bridges lead to.

use alloc::vec;
use alloc::vec::Vec;

use spindle_hw::Ports;

use crate::config::register;
use crate::{Address, Bus, Function};

/// Header layout of a PCI-to-PCI bridge.
const BRIDGE: u8 = 1;

impl<P: Ports> Bus<P> {
    /// All functions on bus 0 and behind bridges that firmware has numbered.
    ///
    /// Every bus is looked at once, however bridges point at each other.
    #[must_use]
    pub fn scan(&self) -> Vec<Function> {
        let mut found = Vec::new();
        let mut known = [false; 256];
        known[0] = true;
        let mut pending = vec![0u8];
        while let Some(bus) = pending.pop() {
            for device in 0..32 {
                let first = found.len();
                self.scan_device(bus, device, &mut found);
                for bridge in found.iter().skip(first).filter(|f| f.header == BRIDGE) {
                    let secondary = (self.read32(bridge.address, register::BUS_NUMBERS) >> 8) as u8;
                    if let Some(seen) = known.get_mut(usize::from(secondary))
                        && !core::mem::replace(seen, true)
                    {
                        pending.push(secondary);
                    }
                }
            }
        }
        found
    }

    fn scan_device(&self, bus: u8, device: u8, found: &mut Vec<Function>) {
        let at = |function| Address::new(bus, device, function).and_then(|at| self.function(at));
        let Some((first, many)) = at(0) else {
            return;
        };
        found.push(first);
        if many {
            found.extend((1..8).filter_map(at).map(|(function, _)| function));
        }
    }
}
