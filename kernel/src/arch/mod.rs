//! The processor: cores and their exceptions, stacks, time stamps and the few instructions that
//! need assembly.

pub(crate) mod backtrace;
pub(crate) mod cpu;
mod gdt;
mod idt;
mod launch;
mod trap;

pub(crate) use gdt::CoreTables;
pub(crate) use launch::Launch;

use alloc::boxed::Box;

use crate::mm::StackError;
use crate::restart;

/// Sets up the boot core, which runs this: its descriptor tables, and exception handlers with
/// stacks of their own.
///
/// # Errors
/// Without memory for the stacks.
pub(crate) fn set_up_core() -> Result<(), StackError> {
    enter_core(0, Box::new(CoreTables::new()?));
    restart::unblock_interrupts();
    Ok(())
}

/// Makes the core that runs this core `number`, with `tables` of its own. Every core does it once,
/// on its own stack.
pub(crate) fn enter_core(number: u32, tables: Box<CoreTables>) {
    cpu::set_number(number);
    Box::leak(tables).load();
    idt::load();
    restart::running(number as usize);
}
