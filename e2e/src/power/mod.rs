//! Power that goes in a real kernel: the whole product in a virtual machine, on a drive whose cache loses what was not flushed.
//!
//! Inside, the drive is a disk with a write-back cache under dm-log-writes, which logs what became durable and in which order. A
//! client marks in the same log what was answered. Outside, the log is played up to every one of its points, and with some of the
//! writes that were in flight there, whole, torn or not at all; each time the drive is opened as the product does, and every block
//! of the volume is read.
//!
//! Reading order: [`dm`] and [`guest`] (inside), [`initramfs`] and [`machine`] (around it), [`log`] and [`trace`] (what it leaves),
//! [`history`] (what must be there), [`image`] (a drive at a point), [`layout`] and [`reader`] (opened and read), [`product`] (the
//! same by the real program), [`replay`] (every point, and the summary).
pub mod dm;
pub mod guest;
pub mod history;
pub mod image;
pub mod initramfs;
pub mod layout;
pub mod log;
pub mod machine;
pub mod product;
pub mod reader;
pub mod replay;
pub mod trace;
