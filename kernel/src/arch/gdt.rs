//! A core's descriptor tables, with the stacks that exceptions run on.

// UNSAFETY: loads descriptor tables and segment registers.
#![expect(unsafe_code)]

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use crate::mm::{Stack, StackError};

/// Pages of each exception stack: a register dump with formatting takes about 2 KiB.
const EXCEPTION_STACK_PAGES: usize = 4;

/// Descriptor tables and exception stacks of one core. They are never given back.
pub(crate) struct CoreTables {
    gdt: GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    tss: TaskStateSegment,
}

impl CoreTables {
    /// Tables for one core.
    ///
    /// # Errors
    /// Without memory for the stacks.
    pub(crate) fn new() -> Result<Self, StackError> {
        let mut gdt = GlobalDescriptorTable::new();
        let code = gdt.append(Descriptor::kernel_code_segment());
        let data = gdt.append(Descriptor::kernel_data_segment());
        let mut tss = TaskStateSegment::new();
        // Non-maskable interrupts, double faults and machine checks must not rely on the stack
        // that was in use.
        for index in 0..super::idt::EXCEPTION_STACKS {
            let stack = Stack::new(EXCEPTION_STACK_PAGES)?;
            tss.interrupt_stack_table[index] = VirtAddr::new(stack.leak_top());
        }
        Ok(Self {
            gdt,
            code,
            data,
            tss,
        })
    }

    /// Puts the tables into use on this core.
    pub(crate) fn load(&'static mut self) {
        let task = self.gdt.append(Descriptor::tss_segment(&self.tss));
        self.gdt.load();
        // SAFETY: the selectors come from the table just loaded, which is never dropped, and
        // describe the same flat segments as those in use.
        unsafe {
            CS::set_reg(self.code);
            DS::set_reg(self.data);
            ES::set_reg(self.data);
            SS::set_reg(self.data);
            load_tss(task);
        }
    }
}
