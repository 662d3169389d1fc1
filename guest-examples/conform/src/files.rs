//! Files and folders as the standard library has them, below a folder that can be written to.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::{self, File, FileTimes, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use libc::{EBADF, EEXIST, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENOTEMPTY, EPERM};

use crate::checks::Checks;

/// Enough that a folder is read in several pieces.
const MANY: usize = 500;

/// A folder to play in.
struct Place(PathBuf);

impl Place {
    fn at(&self, name: &str) -> PathBuf {
        // Not `join`, which does away with what is odd about a name.
        PathBuf::from(format!("{}/{name}", self.0.display()))
    }

    fn symlink(&self, target: &str, name: &str) -> io::Result<()> {
        let text = |text: &str| CString::new(text).map_err(io::Error::other);
        let (target, name) = (text(target)?, text(&self.at(name).display().to_string())?);
        #[allow(unsafe_code, reason = "the standard library makes no links here")]
        let made = unsafe { libc::symlink(target.as_ptr(), name.as_ptr()) };
        if made == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.at(name)).ok()
    }
}

pub(crate) fn all(folder: &str, checks: &mut Checks) {
    let place = Place(Path::new(folder).join("playground"));
    checks.is_ok("a folder can be made", fs::create_dir(&place.0));
    for part in [contents, modes, sizes, names, folders, listings, renaming, links, symlinks, times, odd_names] {
        part(&place, checks);
        checks.is_ok("everything can be removed", fs::remove_dir_all(&place.0));
        checks.is_ok("and made again", fs::create_dir(&place.0));
    }
    checks.is_ok("an empty folder can be removed", fs::remove_dir(&place.0));
}

fn contents(place: &Place, checks: &mut Checks) {
    let path = place.at("file");
    checks.is_ok("a file is written", fs::write(&path, "0123456789"));
    checks.equal("and read", place.text("file"), Some("0123456789".into()));
    let Some(mut file) = checks.is_ok("it is opened for both", OpenOptions::new().read(true).write(true).open(&path))
    else {
        return;
    };
    let mut some = [0; 3];
    checks.equal("a seek from the end", file.seek(SeekFrom::End(-4)).ok(), Some(6));
    checks.is_ok("reading there", file.read_exact(&mut some));
    checks.equal("gives what is there", &some, b"678");
    checks.equal("a seek from here", file.seek(SeekFrom::Current(-2)).ok(), Some(7));
    checks.is_ok("writing there", file.write_all(b"xy"));
    checks.equal("changes that and nothing else", place.text("file"), Some("0123456xy9".into()));
    checks.fails("a seek to before the start", file.seek(SeekFrom::Current(-100)), &[EINVAL]);
    checks.equal("moves nothing", file.stream_position().ok(), Some(9));
    checks.equal("a seek past the end", file.seek(SeekFrom::Start(20)).ok(), Some(20));
    checks.equal("where there is nothing to read", file.read(&mut some).ok(), Some(0));
    checks.is_ok("but to write", file.write_all(b"end"));
    checks.equal("leaves zeros between", fs::read(&path).ok(), Some(b"0123456xy9\0\0\0\0\0\0\0\0\0\0end".to_vec()));
    checks.is_ok("it is flushed", file.sync_data());
    checks.is_ok("with all about it", file.sync_all());
    let long: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    checks.is_ok("a long file is written", fs::write(&path, &long));
    checks.holds("and read", fs::read(&path).is_ok_and(|read| read == long));
}

fn modes(place: &Place, checks: &mut Checks) {
    let path = place.at("file");
    let open = OpenOptions::new;
    checks.fails("a missing file is not opened", File::open(&path), &[ENOENT]);
    checks.fails("nor for writing", open().write(true).open(&path), &[ENOENT]);
    checks.is_ok("a new file is made", open().write(true).create_new(true).open(&path));
    checks.fails("but once", open().write(true).create_new(true).open(&path), &[EEXIST]);
    checks.is_ok("it is filled", fs::write(&path, "abc"));
    checks.is_ok("creating what is there", open().write(true).create(true).truncate(false).open(&path));
    checks.equal("changes nothing", place.text("file"), Some("abc".into()));
    if let Some(mut file) = checks.is_ok("it is opened to append", open().read(true).append(true).open(&path)) {
        checks.is_ok("a seek", file.rewind());
        checks.is_ok("does not keep a write", file.write_all(b"def"));
        checks.is_ok("from going", file.write_all(b"gh"));
        checks.equal("to the end", place.text("file"), Some("abcdefgh".into()));
        let mut text = String::new();
        checks.is_ok("and reading", file.rewind().and_then(|()| file.read_to_string(&mut text)));
        // The C library of components takes every seek of such a file to its end.
        let expected = if cfg!(target_env = "p1") { "abcdefgh" } else { "" };
        checks.equal("is where the seek went", text.as_str(), expected);
    }
    checks.is_ok("opening to truncate", open().write(true).truncate(true).open(&path));
    checks.equal("empties it", place.text("file"), Some(String::new()));
    if let Some(mut file) = checks.is_ok("it is opened to read", File::open(&path)) {
        checks.fails("and cannot be written", file.write(b"x"), &[EBADF]);
        checks.fails("nor truncated", file.set_len(0), &[EBADF, EINVAL]);
    }
    if let Some(mut file) = checks.is_ok("it is opened to write", open().write(true).open(&path)) {
        checks.fails("and cannot be read", file.read(&mut [0; 4]), &[EBADF]);
    }
}

fn sizes(place: &Place, checks: &mut Checks) {
    const FAR: u64 = 5 << 30;
    let path = place.at("file");
    let Some(mut file) =
        checks.is_ok("a file is made", OpenOptions::new().read(true).write(true).create_new(true).open(&path))
    else {
        return;
    };
    checks.is_ok("it is written", file.write_all(b"0123456789"));
    checks.is_ok("and cut", file.set_len(4));
    checks.equal("which leaves where it is", file.stream_position().ok(), Some(10));
    checks.equal("and what is before", place.text("file"), Some("0123".into()));
    checks.is_ok("it grows", file.set_len(6));
    checks.equal("by zeros", fs::read(&path).ok(), Some(b"0123\0\0".to_vec()));
    checks.equal("a seek beyond 4 GiB", file.seek(SeekFrom::Start(FAR)).ok(), Some(FAR));
    checks.is_ok("writing there", file.write_all(b"!"));
    checks.equal("makes it that long", fs::metadata(&path).map(|about| about.len()).ok(), Some(FAR + 1));
    let mut byte = [0];
    checks.is_ok("and can be read", file.seek(SeekFrom::Start(FAR)).and_then(|_| file.read_exact(&mut byte)));
    checks.equal("as it was written", &byte, b"!");
}

fn names(place: &Place, checks: &mut Checks) {
    checks.is_ok("a name of 255 bytes", fs::write(place.at(&"n".repeat(255)), "x"));
    checks.fails("of 256 bytes", fs::write(place.at(&"n".repeat(256)), "x"), &[ENAMETOOLONG]);
    checks.fails("a path of 5000 bytes", File::open(place.at(&"n/".repeat(2500))), &[ENAMETOOLONG]);
    checks.is_ok("a name that is no ASCII", fs::write(place.at("na\u{ef}ve \u{1f980}\n"), "x"));
    checks.equal("an empty one", File::open("").map_err(|error| error.raw_os_error()).err(), Some(Some(ENOENT)));
}

fn folders(place: &Place, checks: &mut Checks) {
    checks.is_ok("a folder in a folder", fs::create_dir_all(place.at("a/b/c")));
    checks.fails("a folder that is there", fs::create_dir(place.at("a")), &[EEXIST]);
    checks.fails("a folder in none", fs::create_dir(place.at("x/y")), &[ENOENT]);
    checks.is_ok("a file in it", fs::write(place.at("a/file"), "x"));
    checks.fails("a folder in a file", fs::create_dir(place.at("a/file/x")), &[ENOTDIR]);
    checks.fails("one that is not empty is not removed", fs::remove_dir(place.at("a")), &[ENOTEMPTY]);
    checks.fails("a file is not removed as a folder", fs::remove_dir(place.at("a/file")), &[ENOTDIR]);
    checks.fails("a folder not as a file", fs::remove_file(place.at("a")), &[EISDIR, EPERM]);
    checks.fails("what is not there", fs::remove_file(place.at("x")), &[ENOENT]);
    checks.fails("nor as a folder", fs::remove_dir(place.at("x")), &[ENOENT]);
    checks.fails("a folder is not opened to write", OpenOptions::new().write(true).open(place.at("a")), &[EISDIR]);
    if let Some(mut folder) = checks.is_ok("it is opened to read", File::open(place.at("a"))) {
        checks.fails("and has no bytes", folder.read(&mut [0; 4]), &[EISDIR, EBADF]);
        // The adapter between the two WASI versions flushes files only.
        if !cfg!(target_env = "p1") {
            checks.is_ok("it can be flushed", folder.sync_all());
        }
    }
    let about = fs::metadata(place.at("a"));
    checks.holds("it is a folder", about.is_ok_and(|about| about.is_dir() && !about.is_file()));
    let about = fs::metadata(place.at("a/file"));
    checks.holds("this is a file", about.is_ok_and(|about| about.is_file() && about.len() == 1));
    checks.is_ok("a deleted file", fs::write(place.at("open"), "still here"));
    if let Some(mut file) = checks.is_ok("that is open", File::open(place.at("open"))) {
        checks.is_ok("is gone", fs::remove_file(place.at("open")));
        let mut text = String::new();
        checks.is_ok("and can be read", file.read_to_string(&mut text));
        checks.equal("as before", text.as_str(), "still here");
    }
}

fn listings(place: &Place, checks: &mut Checks) {
    let mut expected = BTreeSet::from(["folder".to_owned()]);
    checks.is_ok("a folder", fs::create_dir(place.at("folder")));
    for number in 0..MANY {
        let name = format!("a-file-with-the-number-{number}");
        checks.is_ok("a file", fs::write(place.at(&name), "x"));
        expected.insert(name);
    }
    let Some(entries) = checks.is_ok("a folder is listed", fs::read_dir(&place.0)) else { return };
    let entries: Vec<_> = entries.filter_map(Result::ok).collect();
    checks.equal("as many as there are", entries.len(), expected.len());
    let names: BTreeSet<String> = entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    checks.holds("each of them", names == expected);
    let are_folders = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    checks.equal("and one is a folder", are_folders.count(), 1);
    checks.fails("a file is not listed", fs::read_dir(place.at("a-file-with-the-number-0")), &[ENOTDIR]);
    checks.fails("nor what is not there", fs::read_dir(place.at("x")), &[ENOENT]);
    // Removing while listing must miss nothing.
    for entry in fs::read_dir(&place.0).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            checks.is_ok("a file is removed", fs::remove_file(entry.path()));
        }
    }
    checks.equal("one is left", fs::read_dir(&place.0).map(Iterator::count).ok(), Some(1));
}

fn renaming(place: &Place, checks: &mut Checks) {
    checks.is_ok("a file", fs::write(place.at("a"), "a"));
    checks.is_ok("another", fs::write(place.at("b"), "b"));
    checks.is_ok("folders", fs::create_dir_all(place.at("folder/inner")));
    checks.is_ok("an empty one", fs::create_dir(place.at("empty")));
    let rename = |from: &str, to: &str| fs::rename(place.at(from), place.at(to));
    checks.is_ok("a file gets another name", rename("a", "c"));
    checks.fails("and has lost its old one", File::open(place.at("a")), &[ENOENT]);
    checks.is_ok("over another file", rename("c", "b"));
    checks.equal("which is gone", place.text("b"), Some("a".into()));
    checks.is_ok("into a folder", rename("b", "folder/b"));
    checks.is_ok("onto itself", rename("folder/b", "folder/b"));
    checks.fails("what is not there", rename("x", "y"), &[ENOENT]);
    checks.fails("a folder over a file", rename("empty", "folder/b"), &[ENOTDIR]);
    checks.fails("a file over a folder", rename("folder/b", "empty"), &[EISDIR]);
    checks.fails("a folder over one that is not empty", rename("empty", "folder"), &[ENOTEMPTY, EEXIST]);
    checks.fails("a folder into itself", rename("folder", "folder/inner/x"), &[EINVAL]);
    checks.is_ok("a folder over an empty one", rename("folder", "empty"));
    checks.equal("with what is in it", place.text("empty/b"), Some("a".into()));
}

fn links(place: &Place, checks: &mut Checks) {
    checks.is_ok("a file", fs::write(place.at("a"), "a"));
    checks.is_ok("a folder", fs::create_dir(place.at("folder")));
    let link = |from: &str, to: &str| fs::hard_link(place.at(from), place.at(to));
    checks.is_ok("a second name", link("a", "b"));
    checks.is_ok("through which it is written", fs::write(place.at("b"), "changed"));
    checks.equal("is the same file", place.text("a"), Some("changed".into()));
    checks.is_ok("without the first", fs::remove_file(place.at("a")));
    checks.equal("it is still there", place.text("b"), Some("changed".into()));
    checks.fails("a name that is taken", link("b", "folder"), &[EEXIST]);
    checks.fails("what is not there", link("x", "y"), &[ENOENT]);
    checks.fails("a folder", link("folder", "y"), &[EPERM]);
}

fn symlinks(place: &Place, checks: &mut Checks) {
    checks.is_ok("a file", fs::write(place.at("file"), "text"));
    checks.is_ok("a folder", fs::create_dir(place.at("folder")));
    checks.is_ok("a link to a file", place.symlink("file", "to-file"));
    checks.is_ok("to a folder", place.symlink("folder", "to-folder"));
    checks.is_ok("to nothing", place.symlink("nothing", "to-nothing"));
    checks.is_ok("to itself", place.symlink("to-itself", "to-itself"));
    checks.is_ok("out of here", place.symlink("../../../../etc", "out"));
    checks.fails("a name that is taken", place.symlink("x", "file"), &[EEXIST]);
    checks.equal("what it points to", fs::read_link(place.at("to-file")).ok(), Some("file".into()));
    checks.fails("a file points to nothing", fs::read_link(place.at("file")), &[EINVAL]);
    checks.equal("it is followed", place.text("to-file"), Some("text".into()));
    let about = fs::symlink_metadata(place.at("to-file"));
    checks.holds("but is a link itself", about.is_ok_and(|about| about.file_type().is_symlink()));
    let about = fs::metadata(place.at("to-file"));
    checks.holds("to a file", about.is_ok_and(|about| about.is_file()));
    checks.is_ok("through a link to a folder", fs::write(place.at("to-folder/inner"), "x"));
    checks.equal("into it", place.text("folder/inner"), Some("x".into()));
    checks.fails("nothing cannot be opened", File::open(place.at("to-nothing")), &[ENOENT]);
    let new = OpenOptions::new().write(true).create_new(true).open(place.at("to-nothing"));
    checks.fails("nor made anew", new, &[EEXIST]);
    checks.is_ok("but made", fs::write(place.at("to-nothing"), "something"));
    checks.equal("where it points", place.text("nothing"), Some("something".into()));
    checks.fails("a loop", File::open(place.at("to-itself")), &[ELOOP]);
    checks.fails("a way out", fs::read_dir(place.at("out")), &[EPERM]);
    checks.fails("nor through it", File::open(place.at("out/passwd")), &[EPERM]);
    checks.is_ok("a link is renamed", fs::rename(place.at("to-file"), place.at("renamed")));
    checks.equal("itself", fs::read_link(place.at("renamed")).ok(), Some("file".into()));
    checks.is_ok("and removed", fs::remove_file(place.at("renamed")));
    checks.equal("not what it points to", place.text("file"), Some("text".into()));
    checks.fails("a link to a folder is no folder", fs::remove_dir(place.at("to-folder")), &[ENOTDIR]);
}

fn times(place: &Place, checks: &mut Checks) {
    let (read, written) = (Duration::new(1_000_000_000, 123_456_000), Duration::new(1_500_000_000, 1_000));
    let at = |time: Duration| SystemTime::UNIX_EPOCH + time;
    let Some(file) = checks.is_ok("a file", File::create(place.at("file"))) else { return };
    let set = FileTimes::new().set_accessed(at(read)).set_modified(at(written));
    checks.is_ok("its times are set", file.set_times(set));
    let Some(about) = checks.is_ok("it is looked at", fs::metadata(place.at("file"))) else { return };
    checks.equal("when it was written", about.modified().ok(), Some(at(written)));
    checks.equal("when it was read", about.accessed().ok(), Some(at(read)));
    checks.is_ok("one of them", file.set_times(FileTimes::new().set_modified(at(read))));
    let about = fs::metadata(place.at("file"));
    checks.equal("is set", about.as_ref().ok().and_then(|about| about.modified().ok()), Some(at(read)));
    checks.equal("the other stays", about.ok().and_then(|about| about.accessed().ok()), Some(at(read)));
}

/// Names that end in a slash or go here and there.
fn odd_names(place: &Place, checks: &mut Checks) {
    checks.is_ok("a folder with a slash", fs::create_dir(place.at("folder/")));
    checks.is_ok("a file", fs::write(place.at("folder/file"), "text"));
    checks.fails("a file with a slash", File::open(place.at("folder/file/")), &[ENOTDIR]);
    checks.fails("a new one", File::create(place.at("new/")), &[EISDIR, ENOENT, ENOTDIR]);
    checks.fails("removing it", fs::remove_file(place.at("folder/file/")), &[ENOTDIR]);
    for odd in ["folder//file", "./folder/./file", "folder/../folder/file", "folder/./..///folder////./file"] {
        checks.equal(odd, place.text(odd), Some("text".into()));
    }
    checks.fails("through a file", File::open(place.at("folder/file/../file")), &[ENOTDIR]);
    checks.is_ok("a file goes", fs::remove_file(place.at("folder/file")));
    checks.is_ok("a folder is renamed with slashes", fs::rename(place.at("folder/"), place.at("renamed/")));
    checks.is_ok("and removed with one", fs::remove_dir(place.at("renamed/")));
}
