//! Log pages (5.14).

use spindle_nvme::Status;

use super::Shared;
use super::registers::Control;
use super::ring::Entry;

impl Shared {
    pub(super) fn log_page(&self, control: &mut Control, entry: Entry) -> Result<u32, Status> {
        let len = (entry.dword(10) >> 16) as usize * 4 + 4;
        let mut page = match entry.dword(10) & 0xff {
            1 => vec![0; 64],
            2 => {
                let mut page = vec![0; 512];
                page[0] = control.critical;
                page[1..3].copy_from_slice(&300u16.to_le_bytes());
                page[3..6].copy_from_slice(&[90, 10, 1]);
                page
            }
            4 => {
                let changed = std::mem::take(&mut control.changed);
                changed.into_iter().flat_map(u32::to_le_bytes).collect()
            }
            _ => return Err(Status(0x109)),
        };
        page.resize(len, 0);
        if len > 4096 || !entry.prp1().is_multiple_of(4096) {
            self.violation("a log page that is not one page");
        }
        if self.bus.write(entry.prp1(), &page) {
            Ok(0)
        } else {
            Err(Status::DATA_TRANSFER)
        }
    }
}
