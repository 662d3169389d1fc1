//! What tries to get at more than the folders that were granted. A call that is not refused as it
//! should be is what these modes report.

use std::fmt::Debug;

use wasip2::filesystem::{
    preopens::get_directories,
    types::{Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags},
};

/// Notes every call that went otherwise than it should.
#[derive(Default)]
struct Refused(Vec<String>);

impl Refused {
    #[allow(clippy::needless_pass_by_value, reason = "calls read better")]
    fn check<T>(&mut self, what: &str, done: Result<T, ErrorCode>, expected: &[ErrorCode]) {
        match done {
            Ok(_) => self.0.push(format!("{what}: it worked")),
            Err(error) if expected.contains(&error) => {}
            Err(error) => self.0.push(format!("{what}: {error:?} instead of {expected:?}")),
        }
    }

    fn end(self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("\n")) }
    }
}

fn folder(name: &str) -> Result<Descriptor, String> {
    let mut found = get_directories().into_iter().filter(|(_, guest)| guest == name);
    found.next().map(|(folder, _)| folder).ok_or_else(|| format!("it has no folder {name}"))
}

fn open(folder: &Descriptor, path: &str, open: OpenFlags, flags: DescriptorFlags) -> Result<Descriptor, ErrorCode> {
    folder.open_at(PathFlags::SYMLINK_FOLLOW, path, open, flags)
}

fn told<T, E: Debug>(done: Result<T, E>) -> Result<T, String> {
    done.map_err(|error| format!("{error:?}"))
}

/// Ways out of `/data`. Beside it is a file `secret`; the links in it were made by whoever granted it.
const OUT: [&str; 17] = [
    "..",
    "../",
    "../.",
    "../secret",
    "./../secret",
    "inner/../../secret",
    "inner//..//..//secret",
    "/",
    "/etc/passwd",
    "/data/file",
    "link-up",
    "link-up/secret",
    "link-absolute",
    "link-secret",
    "link-proc",
    "link-proc/etc/passwd",
    "link-magic",
];

pub(crate) fn escape() -> Result<(), String> {
    let data = folder("/data")?;
    let mut refused = Refused::default();
    let no = [ErrorCode::NotPermitted];
    for path in OUT {
        for flags in [DescriptorFlags::READ, DescriptorFlags::READ | DescriptorFlags::WRITE] {
            refused.check(&format!("open {path}"), open(&data, path, OpenFlags::empty(), flags), &no);
        }
        refused.check(&format!("stat {path}"), data.stat_at(PathFlags::SYMLINK_FOLLOW, path), &no);
        let times = data.set_times_at(PathFlags::SYMLINK_FOLLOW, path, NewTimestamp::Now, NewTimestamp::Now);
        refused.check(&format!("set times of {path}"), times, &no);
        refused.check(&format!("hash of {path}"), data.metadata_hash_at(PathFlags::SYMLINK_FOLLOW, path), &no);
    }
    let made = ["../made", "inner/../../made", "/tmp/made", "link-up/made", "link-new"];
    for path in made {
        refused.check(&format!("create {path}"), open(&data, path, OpenFlags::CREATE, DescriptorFlags::WRITE), &no);
    }
    for path in &made[..4] {
        refused.check(&format!("mkdir {path}"), data.create_directory_at(path), &no);
        refused.check(&format!("symlink {path}"), data.symlink_at("file", path), &no);
        refused.check(&format!("rename to {path}"), data.rename_at("file", &data, path), &no);
        refused.check(&format!("link to {path}"), data.link_at(PathFlags::empty(), "file", &data, path), &no);
    }
    for path in ["../secret", "inner/../../secret", "link-up/secret"] {
        refused.check(&format!("rename {path}"), data.rename_at(path, &data, "mine"), &no);
        refused.check(&format!("link {path}"), data.link_at(PathFlags::empty(), path, &data, "mine"), &no);
        refused.check(&format!("unlink {path}"), data.unlink_file_at(path), &no);
        refused.check(&format!("readlink {path}"), data.readlink_at(path), &no);
    }
    refused.check("rmdir ../beside", data.remove_directory_at("../beside"), &no);
    refused.check("an absolute link", data.symlink_at("/etc", "mine"), &no);
    own_links(&data, &mut refused)?;
    let long = "a/".repeat(3000);
    refused.check(
        "a long path",
        open(&data, &long, OpenFlags::empty(), DescriptorFlags::READ),
        &[ErrorCode::NameTooLong],
    );
    refused.end()
}

/// A guest may make links that point anywhere relative; they lead nowhere.
fn own_links(data: &Descriptor, refused: &mut Refused) -> Result<(), String> {
    told(data.symlink_at("../secret", "own"))?;
    told(data.symlink_at("inner/../../beside", "own-folder"))?;
    told(data.symlink_at("own-loop", "own-loop"))?;
    let read = |path| open(data, path, OpenFlags::empty(), DescriptorFlags::READ);
    refused.check("open own", read("own"), &[ErrorCode::NotPermitted]);
    refused.check("open own-folder/file", read("own-folder/file"), &[ErrorCode::NotPermitted]);
    refused.check("open own-loop", read("own-loop"), &[ErrorCode::Loop]);
    // A folder that moves away does not become a way out.
    let inner = told(open(data, "inner", OpenFlags::DIRECTORY, DescriptorFlags::READ))?;
    told(data.create_directory_at("elsewhere"))?;
    told(data.rename_at("inner", data, "elsewhere/inner"))?;
    refused.check(
        "open .. of a folder that moved",
        open(&inner, "../../../secret", OpenFlags::empty(), DescriptorFlags::READ),
        &[ErrorCode::NotPermitted],
    );
    refused.check(
        "open .. of a folder",
        open(&inner, "..", OpenFlags::empty(), DescriptorFlags::READ),
        &[ErrorCode::NotPermitted],
    );
    told(data.rename_at("elsewhere/inner", data, "inner"))
}

pub(crate) fn write_ro() -> Result<(), String> {
    let data = folder("/data")?;
    let mut refused = Refused::default();
    let no = [ErrorCode::ReadOnly];
    let (read, write, none) = (DescriptorFlags::READ, DescriptorFlags::WRITE, OpenFlags::empty());
    refused.check("open to write", open(&data, "file", none, read | write), &no);
    refused.check("create", open(&data, "new", OpenFlags::CREATE, read), &no);
    refused.check("truncate", open(&data, "file", OpenFlags::TRUNCATE, read), &no);
    refused.check("mkdir", data.create_directory_at("new"), &no);
    refused.check("rmdir", data.remove_directory_at("inner"), &no);
    refused.check("unlink", data.unlink_file_at("file"), &no);
    refused.check("rename", data.rename_at("file", &data, "new"), &no);
    refused.check("link", data.link_at(PathFlags::empty(), "file", &data, "new"), &no);
    refused.check("symlink", data.symlink_at("file", "new"), &no);
    let times = data.set_times_at(PathFlags::empty(), "file", NewTimestamp::Now, NewTimestamp::Now);
    refused.check("set times", times, &no);
    let file = told(open(&data, "file", none, read))?;
    refused.check("set times of an open file", file.set_times(NewTimestamp::Now, NewTimestamp::Now), &no);
    refused.check("write", file.write(b"x", 0), &[ErrorCode::BadDescriptor]);
    refused.check("set size", file.set_size(0), &[ErrorCode::Invalid, ErrorCode::BadDescriptor]);
    let stream = file.write_via_stream(0).map(|stream| stream.blocking_write_and_flush(b"x"));
    if matches!(stream, Ok(Ok(()))) {
        refused.0.push("write through a stream: it worked".into());
    }
    let inner = told(open(&data, "inner", OpenFlags::DIRECTORY, read))?;
    refused.check("create further down", open(&inner, "new", OpenFlags::CREATE, write), &no);
    // Reading goes on as if nothing had been.
    told(file.read(10, 0))?;
    refused.end()
}

/// A pipe that nobody has open would keep whoever opens it waiting for ever.
pub(crate) fn special() -> Result<(), String> {
    let data = folder("/data")?;
    let mut refused = Refused::default();
    let no = [ErrorCode::NotPermitted];
    for path in ["pipe", "socket", "link-pipe"] {
        for flags in [DescriptorFlags::READ, DescriptorFlags::WRITE, DescriptorFlags::READ | DescriptorFlags::WRITE] {
            let opened = open(&data, path, OpenFlags::empty(), flags);
            refused.check(&format!("open {path} {flags:?}"), opened, &no);
        }
        refused.check(&format!("create {path}"), open(&data, path, OpenFlags::CREATE, DescriptorFlags::WRITE), &no);
        refused.check(&format!("truncate {path}"), open(&data, path, OpenFlags::TRUNCATE, DescriptorFlags::WRITE), &no);
        let times = data.set_times_at(PathFlags::SYMLINK_FOLLOW, path, NewTimestamp::Now, NewTimestamp::Now);
        refused.check(&format!("set times of {path}"), times, &no);
    }
    refused.end()
}

pub(crate) fn cross() -> Result<(), String> {
    let (data, other, scratch) = (folder("/data")?, folder("/other")?, folder("/scratch")?);
    let mut refused = Refused::default();
    let no = [ErrorCode::CrossDevice];
    for (name, to) in [("/other", &other), ("/scratch", &scratch)] {
        refused.check(&format!("link to {name}"), data.link_at(PathFlags::empty(), "file", to, "mine"), &no);
        refused.check(&format!("rename to {name}"), data.rename_at("file", to, "mine"), &no);
    }
    refused.end()
}
