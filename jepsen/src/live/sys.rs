//! The three calls to the kernel that no safe crate offers: a network namespace of one's own, a TUN device, and a child that
//! dies with its parent.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// From now on this thread, and the threads and processes that it starts, have a network of their own: nothing but a
/// loopback device that is down. It goes away with the last of them, so a run that is killed leaves none behind.
#[allow(unsafe_code)] // rustix marks it so because other flags than this one would share file tables with other threads.
pub fn own_network() -> io::Result<()> {
    // SAFETY: a new network namespace changes no memory and no file descriptor of this process.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    Ok(())
}

/// A TUN device in the network of the calling thread: what its users send is read here, packet by packet, and what is written
/// here reaches them. It is gone when this is closed. Reads do not block.
#[allow(unsafe_code)] // no crate of ours knows this ioctl
pub fn open_tun(name: &str) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    // SAFETY: an `ifreq` is plain numbers, for which zeros are values; the kernel is shown all of it.
    let mut wanted: libc::ifreq = unsafe { std::mem::zeroed() };
    // Packets as they are, without a header of the device's own.
    wanted.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    assert!(name.len() < libc::IFNAMSIZ, "a device's name is short");
    for (to, from) in wanted.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: TUNSETIFF reads and writes an `ifreq`, which lives until the call returns, of an open file.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut wanted) };
    match done {
        0 => Ok(OwnedFd::from(file)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The child is killed when the thread that starts it ends, however that comes; also one that is paused just then.
#[allow(unsafe_code)] // what runs between fork and exec is always unsafe
pub fn die_with_this_thread(command: &mut Command) {
    let before_exec = || {
        let kill = Some(rustix::process::Signal::KILL);
        Ok(rustix::process::set_parent_process_death_signal(kill)?)
    };
    // SAFETY: one system call, which takes no lock and allocates nothing.
    unsafe { command.pre_exec(before_exec) };
}
