//! One opened plugin: its tables, proven readable before anything in them is called, and the calls with their replies.

use std::fs::File;
use std::mem::{ManuallyDrop, MaybeUninit, offset_of};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use witness_plugin_abi::{
    ABI_MAJOR, ABI_MINOR, Buffer, ENTRY_SYMBOL, Entry, Host, JobTable, Plugin, ServeTable, Slice, Status,
};
use witness_plugin_protocol::{Descriptor, Diagnostic, Kind, PROTOCOL_VERSION, Role};

use super::descriptor;
use super::link::Link;
use crate::frame::{Operation, PAYLOAD_BYTES_MAX, number_of_role};

/// Longest reply of a call, so that it fits a frame with its header.
const REPLY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - 1024;
/// Largest `struct_size` that is believed; ours have a hundred bytes.
const TABLE_BYTES_MAX: usize = 1 << 16;

/// A plugin that was opened and whose tables are whole.
pub(super) struct Library {
    plugin: &'static Plugin,
    serve: Option<&'static ServeTable>,
    train: Option<&'static JobTable>,
    quantize: Option<&'static JobTable>,
    measure: Option<&'static JobTable>,
    descriptor: Descriptor,
    /// Never closed: the library was opened through it, a panic's backtrace reads it again, and a plugin that closes what is not
    /// its own must not have us close it twice.
    _file: ManuallyDrop<File>,
}

/// Why a call did not succeed.
pub(super) struct CallFailure {
    pub(super) diagnostic: Box<Diagnostic>,
    /// The plugin's state is not to be trusted any more.
    pub(super) is_panic: bool,
}

impl From<Box<Diagnostic>> for CallFailure {
    fn from(diagnostic: Box<Diagnostic>) -> Self {
        Self {
            diagnostic,
            is_panic: false,
        }
    }
}

impl Library {
    /// Opens the library behind `file` and reads its tables and descriptor. Calls nothing but its entry point.
    pub(super) fn open(path: &Path, file: File) -> Result<Self, Box<Diagnostic>> {
        let entry = entry_of(path, &file)?;
        // SAFETY: the symbol has the entry's name, whose type the ABI fixes; a library that lies about it costs this process only.
        let plugin = unsafe { entry() };
        let plugin = read_plugin(path, plugin)?;
        let descriptor = descriptor::read(path, plugin)?;
        let serve = role_table(path, &descriptor, Role::Serve, plugin.serve, SERVE_FUNCTIONS)?;
        let train = role_table(path, &descriptor, Role::Train, plugin.train, JOB_FUNCTIONS)?;
        let quantize = role_table(path, &descriptor, Role::Quantize, plugin.quantize, JOB_FUNCTIONS)?;
        let measure = role_table(path, &descriptor, Role::Measure, plugin.measure, JOB_FUNCTIONS)?;
        Ok(Self {
            plugin,
            serve,
            train,
            quantize,
            measure,
            descriptor,
            _file: ManuallyDrop::new(file),
        })
    }

    /// Returns what the plugin says about itself.
    pub(super) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Returns major and minor version of its tables.
    pub(super) fn abi(&self) -> (u32, u32) {
        (self.plugin.abi_major, self.plugin.abi_minor)
    }

    /// Returns the table of the role `serve`, if it has the role.
    pub(super) fn serve(&self) -> Option<&'static ServeTable> {
        self.serve
    }

    /// Returns the table of a job role, if the plugin has the role. `number` is that of [`crate::frame::number_of_role`].
    pub(super) fn jobs(&self, number: u64) -> Option<&'static JobTable> {
        let tables = [
            (Role::Train, self.train),
            (Role::Quantize, self.quantize),
            (Role::Measure, self.measure),
        ];
        let (_, table) = tables.into_iter().find(|(role, _)| number_of_role(*role) == number)?;
        table
    }

    /// Initializes the plugin, once.
    pub(super) fn init(&mut self, _link: &Arc<Link>, settings: &Map<String, Value>) -> Result<(), Box<Diagnostic>> {
        // Leaked: the ABI promises the plugin that the table lives as long as the process.
        let host: &'static Host = Box::leak(Box::new(Host {
            struct_size: size_of::<Host>(),
            abi_major: ABI_MAJOR,
            abi_minor: ABI_MINOR,
            context: std::ptr::null_mut(),
            log,
        }));
        let settings = serde_json::to_vec(settings).unwrap_or_else(|_| b"{}".to_vec());
        self.call(Operation::Open, |reply| {
            // SAFETY: `init` was proven not null, the host table is static, and settings and reply outlive the call.
            unsafe { (self.plugin.init)(&raw const *host, slice_of(&settings), reply) }
        })
        .map(drop)
        .map_err(|failure| failure.diagnostic)
    }

    /// Shuts the plugin down. Nothing may be called after it.
    pub(super) fn shutdown(&self) {
        // SAFETY: proven not null; called once, at the end of the worker's run.
        unsafe { (self.plugin.shutdown)() }
    }

    /// Makes one call and takes its reply.
    pub(super) fn call(
        &self,
        operation: Operation,
        call: impl FnOnce(*mut Buffer) -> Status,
    ) -> Result<Vec<u8>, CallFailure> {
        let mut buffer = Buffer {
            ptr: std::ptr::null_mut(),
            len: 0,
            reserved: 0,
        };
        let status = call(&raw mut buffer);
        let reply = self.take(operation, &mut buffer);
        if status == Status::OK {
            return Ok(reply?);
        }
        let said = reply
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Diagnostic>(&bytes).ok());
        let diagnostic = said.unwrap_or_else(|| {
            Diagnostic::new(
                "witness::plugin::refused_silently",
                Kind::Plugin,
                format!(
                    "plugin `{}` refused `{}` with status {} and did not say why",
                    self.descriptor.name,
                    operation.name(),
                    status.0
                ),
            )
        });
        Err(CallFailure {
            diagnostic: Box::new(diagnostic),
            is_panic: status == Status::PANICKED,
        })
    }

    /// Copies a reply and gives the buffer back.
    fn take(&self, operation: Operation, buffer: &mut Buffer) -> Result<Vec<u8>, Box<Diagnostic>> {
        if buffer.len == 0 {
            if !buffer.ptr.is_null() {
                self.free(buffer);
            }
            return Ok(Vec::new());
        }
        let fault = if buffer.ptr.is_null() {
            format!("a null reply of {} bytes", buffer.len)
        } else if buffer.len > REPLY_BYTES_MAX {
            format!("a reply of {} bytes, and {REPLY_BYTES_MAX} are allowed", buffer.len)
        } else {
            // SAFETY: not null, and the plugin says that `len` bytes are there; if it lies, this process is lost and no other.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.ptr, buffer.len) }.to_vec();
            self.free(buffer);
            return Ok(bytes);
        };
        // A buffer that is not believed is not given back either: its free would only do more harm.
        Err(Box::new(
            Diagnostic::new(
                "witness::plugin::bad_reply",
                Kind::Plugin,
                format!(
                    "plugin `{}` broke the rules of `{}`",
                    self.descriptor.name,
                    operation.name()
                ),
            )
            .cause(fault)
            .hint("report it to the plugin's author"),
        ))
    }

    fn free(&self, buffer: &mut Buffer) {
        // SAFETY: proven not null; the buffer was filled by a call of this plugin and is freed once.
        unsafe { (self.plugin.free_buffer)(std::ptr::from_mut(buffer)) }
    }
}

/// Returns a slice over bytes, for the duration of a call.
pub(super) fn slice_of(bytes: &[u8]) -> Slice {
    Slice {
        ptr: bytes.as_ptr(),
        len: bytes.len(),
    }
}

/// Opens the library and finds its entry point. The library is never closed: code of it may run until the process ends.
fn entry_of(path: &Path, file: &File) -> Result<Entry, Box<Diagnostic>> {
    use libloading::os::unix;
    // The very file that was checked, whatever the path names by now. Elsewhere than on Linux the path has to do.
    let through = if cfg!(target_os = "linux") {
        std::path::PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
    } else {
        path.to_owned()
    };
    // SAFETY: opening runs the library's initializers. It is a file that only the user or root can write, and this process is
    // there to be lost.
    let library = unsafe { unix::Library::open(Some(&through), unix::RTLD_NOW | unix::RTLD_LOCAL) };
    let library = library.map_err(|error| {
        Box::new(
            Diagnostic::new(
                "witness::plugin::cannot_open",
                Kind::Plugin,
                format!("the plugin `{}` cannot be opened", path.display()),
            )
            .cause(
                error
                    .to_string()
                    .replace(&through.display().to_string(), &path.display().to_string()),
            )
            .hint("a library that it needs may be missing: `ldd` on the file shows which"),
        )
    })?;
    // SAFETY: only the address is taken here; its type is fixed by the symbol's name.
    let entry = unsafe { library.get::<Entry>(ENTRY_SYMBOL) }.map(|symbol| *symbol);
    std::mem::forget(library);
    entry.map_err(|_| {
        Box::new(
            Diagnostic::new(
                "witness::plugin::no_entry",
                Kind::Plugin,
                format!(
                    "`{}` is a library, but no plugin: it has no symbol `{ENTRY_SYMBOL}`",
                    path.display()
                ),
            )
            .cause(format!("this program speaks plugin ABI {ABI_MAJOR}.{ABI_MINOR}"))
            .hint("a plugin for another major version exports another symbol: build it against this version's header"),
        )
    })
}

/// Proves that the plugin table is readable, of our major version, and whole.
fn read_plugin(path: &Path, plugin: *const Plugin) -> Result<&'static Plugin, Box<Diagnostic>> {
    if plugin.is_null() || !plugin.is_aligned() {
        return Err(malformed(path, "its entry point returned no table"));
    }
    // SAFETY: aligned and not null; size and version come first in every version of the table.
    let (struct_size, major, minor) = unsafe {
        (
            (&raw const (*plugin).struct_size).read(),
            (&raw const (*plugin).abi_major).read(),
            (&raw const (*plugin).abi_minor).read(),
        )
    };
    if major != ABI_MAJOR {
        return Err(Box::new(
            Diagnostic::new(
                "witness::plugin::abi_mismatch",
                Kind::Unsupported,
                format!(
                    "plugin `{}` speaks ABI {major}.{minor}, and this program {ABI_MAJOR}.{ABI_MINOR}",
                    path.display()
                ),
            )
            .hint(if major > ABI_MAJOR {
                "update witness, or use an older build of the plugin"
            } else {
                "build the plugin again against this version's header"
            }),
        ));
    }
    whole(
        path,
        "plugin",
        plugin.cast(),
        struct_size,
        PLUGIN_BYTES_MIN,
        PLUGIN_FUNCTIONS,
    )?;
    if struct_size >= size_of::<Plugin>() {
        // SAFETY: aligned, at least as large as our version of it, its function pointers not null, and static by contract.
        return Ok(unsafe { &*plugin });
    }
    // Of an older minor version: what it does not reach to is absent, and absent is null.
    let mut own = Box::new(MaybeUninit::<Plugin>::zeroed());
    // SAFETY: `struct_size` bytes are readable there, and `own` has more.
    unsafe { std::ptr::copy_nonoverlapping(plugin.cast::<u8>(), own.as_mut_ptr().cast::<u8>(), struct_size) };
    // SAFETY: the function pointers lie within the first version and were proven not null; everything later is a pointer that may be null.
    // Leaked once per process, as the plugin's own table lives as long.
    Ok(Box::leak(unsafe { own.assume_init() }))
}

/// Bytes of the table in ABI 1.0.
const PLUGIN_BYTES_MIN: usize = offset_of!(Plugin, measure);

const PLUGIN_FUNCTIONS: &[(usize, &str)] = &[
    (offset_of!(Plugin, init), "init"),
    (offset_of!(Plugin, shutdown), "shutdown"),
    (offset_of!(Plugin, free_buffer), "free_buffer"),
];
const SERVE_FUNCTIONS: &[(usize, &str)] = &[
    (offset_of!(ServeTable, inspect), "inspect"),
    (offset_of!(ServeTable, load), "load"),
    (offset_of!(ServeTable, unload), "unload"),
    (offset_of!(ServeTable, load_adapter), "load_adapter"),
    (offset_of!(ServeTable, unload_adapter), "unload_adapter"),
    (offset_of!(ServeTable, start), "start"),
    (offset_of!(ServeTable, cancel), "cancel"),
    (offset_of!(ServeTable, step), "step"),
];
const JOB_FUNCTIONS: &[(usize, &str)] = &[(offset_of!(JobTable, plan), "plan"), (offset_of!(JobTable, run), "run")];

/// Returns the table of a role that the descriptor claims, proven whole; nothing for a role that it does not claim.
fn role_table<T>(
    path: &Path,
    descriptor: &Descriptor,
    role: Role,
    table: *const T,
    functions: &[(usize, &str)],
) -> Result<Option<&'static T>, Box<Diagnostic>> {
    if !descriptor.roles.contains(&role) {
        return Ok(None);
    }
    let name = role.name();
    if table.is_null() || !table.is_aligned() {
        return Err(malformed(
            path,
            &format!("it claims the role `{name}` and has no table for it"),
        ));
    }
    // SAFETY: aligned and not null; the size comes first in every table.
    let struct_size = unsafe { table.cast::<usize>().read() };
    whole(path, name, table.cast(), struct_size, size_of::<T>(), functions)?;
    // SAFETY: aligned, at least as large as our version of it, its function pointers not null, and static by contract.
    Ok(Some(unsafe { &*table }))
}

/// Proves that a table reaches as far as ours and that none of its functions is null.
fn whole(
    path: &Path,
    name: &str,
    table: *const usize,
    struct_size: usize,
    needed: usize,
    functions: &[(usize, &str)],
) -> Result<(), Box<Diagnostic>> {
    if struct_size < needed || struct_size > TABLE_BYTES_MAX {
        let fault = format!(
            "its table `{name}` says that it has {struct_size} bytes, and ABI {ABI_MAJOR}.{ABI_MINOR} has {needed}"
        );
        return Err(malformed(path, &fault));
    }
    for (offset, function) in functions {
        // SAFETY: the offset is that of a pointer field within `needed` bytes, which the table has; it is read as a number, as a
        // null function pointer must never exist as a value.
        let address = unsafe { table.byte_add(*offset).read() };
        if address == 0 {
            return Err(malformed(
                path,
                &format!("the function `{function}` of its table `{name}` is null"),
            ));
        }
    }
    Ok(())
}

/// Returns the refusal of a library whose tables or descriptor break the rules.
pub(super) fn malformed(path: &Path, fault: &str) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::new(
            "witness::plugin::malformed",
            Kind::Plugin,
            format!("`{}` is not a sound plugin", path.display()),
        )
        .cause(fault)
        .cause(format!(
            "this program speaks plugin ABI {ABI_MAJOR}.{ABI_MINOR}, messages {PROTOCOL_VERSION}"
        ))
        .hint("report it to the plugin's author"),
    )
}

/// The host's `log`: a line on standard error with the level in front, which the daemon reads and logs.
///
/// # Safety
/// `message` is readable for its length.
unsafe extern "C" fn log(_context: *mut std::ffi::c_void, level: u32, message: Slice) {
    if message.ptr.is_null() || message.len == 0 {
        return;
    }
    // SAFETY: not null, and readable as the caller promises.
    let bytes = unsafe { std::slice::from_raw_parts(message.ptr, message.len.min(crate::logs::LINE_BYTES_MAX)) };
    // One line per call, and no panic across the border when standard error is gone.
    let text = String::from_utf8_lossy(bytes).replace('\n', " ");
    let line = format!("<{}>{text}\n", crate::logs::syslog_level(level));
    let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), line.as_bytes());
}
