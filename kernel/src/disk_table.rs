//! The disks as control is given them.

use alloc::string::String;
use alloc::vec::Vec;

use spindle_block::Targets;
use spindle_control::{Care, DiskTable};
use spindle_datapath::Queue;

use crate::disks::Disks;

impl DiskTable for Disks {
    type Queue = Queue;

    fn targets(&self) -> &Targets {
        &self.targets
    }

    fn targets_mut(&mut self) -> &mut Targets {
        &mut self.targets
    }

    fn list(&self) -> String {
        self.list()
    }

    fn is_lost(&self, disk: usize) -> bool {
        self.is_lost(disk)
    }

    fn attend(&mut self) -> Care {
        let care = self.attend();
        Care {
            wake: care.wake,
            soon: care.soon,
            lost: care.lost,
            loose: care.loose,
            resized: care.resized,
            health: care.health,
        }
    }

    fn ask_health(&mut self) {
        self.ask_health();
    }

    fn shutdown(self, queues: Vec<Vec<Queue>>) {
        self.shutdown(queues);
    }
}
