//! The calls of WASI preview 1 themselves, where the standard library shows too little of them.
#![allow(unsafe_code, reason = "preview 1 takes addresses")]

use std::{collections::BTreeSet, fmt::Debug, fs, path::Path};

use wasi::{
    ADVICE_DONTNEED, ADVICE_NOREUSE, ADVICE_NORMAL, ADVICE_RANDOM, ADVICE_SEQUENTIAL, ADVICE_WILLNEED,
    CLOCKID_MONOTONIC, CLOCKID_REALTIME, Ciovec, Dircookie, Dirent, ERRNO_BADF, ERRNO_EXIST, ERRNO_ILSEQ, ERRNO_INVAL,
    ERRNO_ISDIR, ERRNO_LOOP, ERRNO_MLINK, ERRNO_NOENT, ERRNO_NOTCAPABLE, ERRNO_NOTDIR, ERRNO_NOTEMPTY, ERRNO_NOTSUP,
    ERRNO_PERM, Errno, Event, FDFLAGS_APPEND, FDFLAGS_NONBLOCK, Fd, Iovec, LOOKUPFLAGS_SYMLINK_FOLLOW, OFLAGS_CREAT,
    OFLAGS_DIRECTORY, OFLAGS_EXCL, OFLAGS_TRUNC, RIGHTS_FD_READ, RIGHTS_FD_WRITE, Subscription, SubscriptionClock,
    SubscriptionFdReadwrite, SubscriptionU, SubscriptionUU, WHENCE_CUR, WHENCE_END, WHENCE_SET,
};

use crate::checks::Checks;

const READ: u64 = RIGHTS_FD_READ;
const BOTH: u64 = RIGHTS_FD_READ | RIGHTS_FD_WRITE;
/// No program has so many files open.
const NO_FD: Fd = 10_000;

pub(crate) fn all(folder: &str, checks: &mut Checks) {
    let Some(dir) = preopen(folder) else {
        return checks.note("the folder is open", Err(format!("no descriptor is called {folder}")));
    };
    type Part = unsafe fn(Fd, &mut Checks);
    let parts: [(&str, Part); 13] = [
        ("offsets", offsets),
        ("flags", flags),
        ("listings", listings),
        ("opening", opening),
        ("paths", paths),
        ("links", links),
        ("stats", stats),
        ("advice", advice),
        ("folders as files", folders_as_files),
        ("polls", polls),
        ("numbers", numbers),
        ("standard streams", standard_streams),
        ("descriptors", descriptors),
    ];
    for (name, part) in parts {
        eprintln!("- {name}");
        // Safety: every address given away below is of something that lives through the call.
        unsafe { part(dir, checks) };
        if let Ok(entries) = fs::read_dir(folder) {
            for entry in entries.filter_map(Result::ok) {
                let _ = if entry.path().is_dir() && !entry.path().is_symlink() {
                    fs::remove_dir_all(entry.path())
                } else {
                    fs::remove_file(entry.path())
                };
            }
        }
    }
}

fn preopen(folder: &str) -> Option<Fd> {
    (3..20).find(|&fd| {
        let mut name = [0; 256];
        // Safety: `name` has as many bytes as it says.
        let len = unsafe { wasi::fd_prestat_get(fd).map(|stat| stat.u.dir.pr_name_len) };
        len.is_ok_and(|len| {
            let got = unsafe { wasi::fd_prestat_dir_name(fd, name.as_mut_ptr(), name.len()) };
            got.is_ok() && Path::new(std::str::from_utf8(&name[..len]).unwrap_or("")) == Path::new(folder)
        })
    })
}

impl Checks {
    fn works<T>(&mut self, what: &str, done: Result<T, Errno>) -> Option<T> {
        self.note(what, done.as_ref().map(drop).map_err(|error| format!("{error:?}")));
        done.ok()
    }

    #[allow(clippy::needless_pass_by_value, reason = "calls read better")]
    fn refuses<T>(&mut self, what: &str, done: Result<T, Errno>, expected: &[Errno]) {
        let note = match done {
            Ok(_) => Err("it worked".into()),
            Err(error) if expected.contains(&error) => Ok(()),
            Err(error) => Err(format!("{error:?} instead of {expected:?}")),
        };
        self.note(what, note);
    }

    fn is<T: PartialEq + Debug>(&mut self, what: &str, got: Result<T, Errno>, expected: T) {
        self.equal(what, got.map_err(|error| format!("{error:?}")), Ok(expected));
    }
}

unsafe fn open(dir: Fd, path: &str, oflags: u16, rights: u64, fdflags: u16) -> Result<Fd, Errno> {
    unsafe { wasi::path_open(dir, LOOKUPFLAGS_SYMLINK_FOLLOW, path, oflags, rights, rights, fdflags) }
}

unsafe fn write(fd: Fd, bytes: &[u8]) -> Result<usize, Errno> {
    unsafe { wasi::fd_write(fd, &[Ciovec { buf: bytes.as_ptr(), buf_len: bytes.len() }]) }
}

unsafe fn read(fd: Fd, max: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; max];
    let read = unsafe { wasi::fd_read(fd, &[Iovec { buf: bytes.as_mut_ptr(), buf_len: max }])? };
    bytes.truncate(read);
    Ok(bytes)
}

unsafe fn make(dir: Fd, path: &str, text: &str) {
    unsafe {
        if let Ok(fd) = open(dir, path, OFLAGS_CREAT | OFLAGS_TRUNC, BOTH, 0) {
            let _ = write(fd, text.as_bytes());
            let _ = wasi::fd_close(fd);
        }
    }
}

unsafe fn offsets(dir: Fd, c: &mut Checks) {
    unsafe {
        let Some(fd) = c.works("a file", open(dir, "file", OFLAGS_CREAT, BOTH, 0)) else { return };
        c.is("it is written", write(fd, b"0123456789"), 10);
        c.is("where it is", wasi::fd_tell(fd), 10);
        c.is("from the start", wasi::fd_seek(fd, 2, WHENCE_SET), 2);
        c.is("from here", wasi::fd_seek(fd, 3, WHENCE_CUR), 5);
        c.is("back", wasi::fd_seek(fd, -1, WHENCE_CUR), 4);
        c.is("from the end", wasi::fd_seek(fd, -2, WHENCE_END), 8);
        c.refuses("before the start", wasi::fd_seek(fd, -1, WHENCE_SET), &[ERRNO_INVAL]);
        c.refuses("before it from here", wasi::fd_seek(fd, -100, WHENCE_CUR), &[ERRNO_INVAL]);
        c.refuses("too far", wasi::fd_seek(fd, i64::MAX, WHENCE_CUR), &[ERRNO_INVAL, wasi::ERRNO_OVERFLOW]);
        c.is("nothing of that moved it", wasi::fd_tell(fd), 8);
        let mut some = [0; 4];
        let into = [Iovec { buf: some.as_mut_ptr(), buf_len: 2 }, Iovec { buf: some.as_mut_ptr().add(2), buf_len: 2 }];
        c.holds("pread into two places", wasi::fd_pread(fd, &into, 1).is_ok_and(|read| read >= 2));
        c.equal("at its offset", &some[..2], b"12");
        c.is("pread past the end", wasi::fd_pread(fd, &into, 100), 0);
        let from = [Ciovec { buf: b"ab".as_ptr(), buf_len: 2 }];
        c.is("pwrite", wasi::fd_pwrite(fd, &from, 0), 2);
        c.is("neither moved it", wasi::fd_tell(fd), 8);
        c.is("so reading goes on", read(fd, 10).map(|bytes| bytes.len()), 2);
        c.is("to the end", read(fd, 10).map(|bytes| bytes.len()), 0);
        c.is("nothing into nowhere", wasi::fd_read(fd, &[]), 0);
        let pieces = ["", "x", "", "yz"].map(|text| Ciovec { buf: text.as_ptr(), buf_len: text.len() });
        c.works("from several places", wasi::fd_write(fd, &pieces));
        c.works("it is cut", wasi::fd_filestat_set_size(fd, 3));
        c.is("to", wasi::fd_filestat_get(fd).map(|stat| stat.size), 3);
        c.works("it grows", wasi::fd_filestat_set_size(fd, 100));
        c.is("to that", wasi::fd_filestat_get(fd).map(|stat| stat.size), 100);
        let Some(other) = c.works("it is opened again", open(dir, "file", 0, READ, 0)) else { return };
        c.is("which begins at the start", wasi::fd_tell(other), 0);
        c.is("with what was written", read(other, 3), b"ab2".to_vec());
        c.works("it is closed", wasi::fd_close(other));
        c.refuses("but once", wasi::fd_close(other), &[ERRNO_BADF]);
        // No buffer between two descriptors of one file.
        c.works("back to the start", wasi::fd_seek(fd, 0, WHENCE_SET));
        c.is("it is written again", write(fd, b"XY"), 2);
        let Some(other) = c.works("and opened again", open(dir, "file", 0, READ, 0)) else { return };
        c.is("it is there at once", read(other, 2), b"XY".to_vec());
        let _ = (wasi::fd_close(other), wasi::fd_close(fd));
    }
}

unsafe fn flags(dir: Fd, c: &mut Checks) {
    unsafe {
        let Some(fd) = c.works("a file", open(dir, "file", OFLAGS_CREAT, BOTH, FDFLAGS_APPEND)) else { return };
        c.is("it appends", wasi::fd_fdstat_get(fd).map(|stat| stat.fs_flags & FDFLAGS_APPEND), FDFLAGS_APPEND);
        c.is("a file is a file", wasi::fd_fdstat_get(fd).map(|stat| stat.fs_filetype.raw()), 4);
        c.is("it is written", write(fd, b"abc"), 3);
        c.works("back", wasi::fd_seek(fd, 0, WHENCE_SET));
        c.is("and again", write(fd, b"def"), 3);
        c.works("no more of that", wasi::fd_fdstat_set_flags(fd, 0));
        c.is("it does not append", wasi::fd_fdstat_get(fd).map(|stat| stat.fs_flags & FDFLAGS_APPEND), 0);
        c.works("back", wasi::fd_seek(fd, 0, WHENCE_SET));
        c.is("and over it", write(fd, b"XY"), 2);
        c.works("appending again", wasi::fd_fdstat_set_flags(fd, FDFLAGS_APPEND));
        c.works("back", wasi::fd_seek(fd, 0, WHENCE_SET));
        c.is("at the end", write(fd, b"gh"), 2);
        c.works("back", wasi::fd_seek(fd, 0, WHENCE_SET));
        c.is("all of it", read(fd, 20), b"XYcdefgh".to_vec());
        c.works("not waiting", wasi::fd_fdstat_set_flags(fd, FDFLAGS_NONBLOCK));
        c.is("is kept", wasi::fd_fdstat_get(fd).map(|stat| stat.fs_flags & FDFLAGS_NONBLOCK), FDFLAGS_NONBLOCK);
        c.works("flushing", wasi::fd_sync(fd));
        c.works("its data", wasi::fd_datasync(fd));
        let _ = wasi::fd_close(fd);
        let Some(fd) = c.works("to read", open(dir, "file", 0, READ, 0)) else { return };
        c.refuses("no writing", write(fd, b"x"), &[ERRNO_BADF, ERRNO_NOTCAPABLE]);
        c.refuses("no cutting", wasi::fd_filestat_set_size(fd, 0), &[ERRNO_INVAL, ERRNO_BADF, ERRNO_NOTCAPABLE]);
        let rights = wasi::fd_fdstat_get(fd).map(|stat| stat.fs_rights_base & BOTH);
        c.is("and it is known", rights, READ);
        let _ = wasi::fd_close(fd);
        let Some(fd) = c.works("to write", open(dir, "file", 0, RIGHTS_FD_WRITE, 0)) else { return };
        c.refuses("no reading", read(fd, 4), &[ERRNO_BADF, ERRNO_NOTCAPABLE]);
        let _ = wasi::fd_close(fd);
        c.refuses("flags of nothing", wasi::fd_fdstat_set_flags(NO_FD, 0), &[ERRNO_BADF]);
    }
}

/// Names with the cookie to go on after each.
unsafe fn list(dir: Fd, buffer_bytes: usize, mut cookie: Dircookie) -> Result<Vec<(String, Dircookie, u8)>, Errno> {
    let mut found = Vec::new();
    loop {
        let mut buffer = vec![0_u8; buffer_bytes];
        let used = unsafe { wasi::fd_readdir(dir, buffer.as_mut_ptr(), buffer.len(), cookie)? };
        let (mut at, before) = (0, found.len());
        while at + size_of::<Dirent>() <= used {
            // Safety: so many bytes are there; they need not be aligned.
            let entry = unsafe { buffer.as_ptr().add(at).cast::<Dirent>().read_unaligned() };
            let (start, len) = (at + size_of::<Dirent>(), entry.d_namlen as usize);
            let Some(name) = buffer[..used].get(start..start + len) else { break };
            found.push((String::from_utf8_lossy(name).into_owned(), entry.d_next, entry.d_type.raw()));
            cookie = entry.d_next;
            at = start + len;
        }
        if used < buffer_bytes || found.len() == before {
            return Ok(found);
        }
    }
}

unsafe fn listings(dir: Fd, c: &mut Checks) {
    unsafe {
        c.works("a folder", wasi::path_create_directory(dir, "folder"));
        let Some(folder) = c.works("open", open(dir, "folder", OFLAGS_DIRECTORY, READ, 0)) else { return };
        let empty = list(folder, 4096, 0).map(|all| all.into_iter().map(|(name, ..)| name).collect::<BTreeSet<_>>());
        c.is("nothing is in it", empty, BTreeSet::from([".".into(), "..".into()]));
        let mut expected = BTreeSet::from([".".to_owned(), "..".to_owned(), "inner".to_owned()]);
        c.works("a folder in it", wasi::path_create_directory(folder, "inner"));
        for number in 0..50 {
            let name = format!("file-number-{number}");
            make(folder, &name, "x");
            expected.insert(name);
        }
        for buffer_bytes in [64, 100, 128, 1000, 65536] {
            let Some(all) = c.works("listed", list(folder, buffer_bytes, 0)) else { continue };
            let names: BTreeSet<String> = all.iter().map(|(name, ..)| name.clone()).collect();
            c.equal(&format!("in pieces of {buffer_bytes}, as many"), all.len(), expected.len());
            c.holds("each of them", names == expected);
            let kinds: Vec<u8> = all.iter().filter(|(name, ..)| name == "inner").map(|(.., kind)| *kind).collect();
            c.equal("a folder is one", kinds, vec![3]);
            let (_, cookie, _) = all[19];
            let rest = list(folder, buffer_bytes, cookie).map(|rest| rest.len());
            c.is("from the middle the rest", rest, expected.len() - 20);
        }
        c.refuses("a file is not listed", list(NO_FD, 100, 0), &[ERRNO_BADF]);
        if let Some(fd) = c.works("a file", open(folder, "file-number-1", 0, READ, 0)) {
            c.refuses("has no entries", list(fd, 100, 0), &[ERRNO_NOTDIR, ERRNO_BADF, ERRNO_NOTCAPABLE]);
            let _ = wasi::fd_close(fd);
        }
        let _ = wasi::fd_close(folder);
    }
}

unsafe fn opening(dir: Fd, c: &mut Checks) {
    unsafe {
        make(dir, "file", "text");
        c.works("a folder", wasi::path_create_directory(dir, "folder"));
        c.works("a link", wasi::path_symlink("file", dir, "to-file"));
        c.works("to a folder", wasi::path_symlink("folder", dir, "to-folder"));
        c.works("to nothing", wasi::path_symlink("nothing", dir, "to-nothing"));
        c.works("to itself", wasi::path_symlink("loop", dir, "loop"));
        let nofollow = |path, oflags| wasi::path_open(dir, 0, path, oflags, READ, READ, 0);
        c.refuses("a link not followed", nofollow("to-file", 0), &[ERRNO_LOOP, ERRNO_MLINK]);
        c.refuses("as a folder", nofollow("to-file", OFLAGS_DIRECTORY), &[ERRNO_LOOP, ERRNO_NOTDIR]);
        c.refuses("to a folder", nofollow("to-folder", 0), &[ERRNO_LOOP, ERRNO_MLINK]);
        c.refuses("as one", nofollow("to-folder", OFLAGS_DIRECTORY), &[ERRNO_LOOP, ERRNO_NOTDIR]);
        c.refuses("to nothing", nofollow("to-nothing", 0), &[ERRNO_LOOP, ERRNO_MLINK]);
        c.refuses("followed", open(dir, "to-nothing", 0, READ, 0), &[ERRNO_NOENT]);
        c.refuses("as a folder", open(dir, "to-nothing", OFLAGS_DIRECTORY, READ, 0), &[ERRNO_NOENT]);
        c.refuses("a loop", open(dir, "loop", 0, READ, 0), &[ERRNO_LOOP]);
        c.refuses("a loop not followed", nofollow("loop", 0), &[ERRNO_LOOP, ERRNO_MLINK]);
        let excl = open(dir, "to-nothing", OFLAGS_CREAT | OFLAGS_EXCL, BOTH, 0);
        c.refuses("made anew", excl, &[ERRNO_EXIST]);
        c.refuses("a file as a folder", open(dir, "file", OFLAGS_DIRECTORY, READ, 0), &[ERRNO_NOTDIR]);
        c.refuses(
            "made as a folder",
            open(dir, "x", OFLAGS_CREAT | OFLAGS_DIRECTORY, READ, 0),
            &[ERRNO_INVAL, ERRNO_NOENT, ERRNO_NOTDIR],
        );
        c.refuses("a folder to make", open(dir, "folder", OFLAGS_CREAT, BOTH, 0), &[ERRNO_ISDIR]);
        c.refuses("to truncate", open(dir, "folder", OFLAGS_TRUNC, BOTH, 0), &[ERRNO_ISDIR]);
        c.refuses("to write", open(dir, "folder", 0, RIGHTS_FD_WRITE, 0), &[ERRNO_ISDIR]);
        c.refuses("what is there", open(dir, "file", OFLAGS_CREAT | OFLAGS_EXCL, BOTH, 0), &[ERRNO_EXIST]);
        c.refuses("in a file", open(dir, "file/x", OFLAGS_CREAT, BOTH, 0), &[ERRNO_NOTDIR]);
        c.refuses("below nothing", open(NO_FD, "file", 0, READ, 0), &[ERRNO_BADF]);
        if let Some(fd) = c.works("a file", open(dir, "file", 0, READ, 0)) {
            c.refuses("is no folder to open in", open(fd, "x", 0, READ, 0), &[ERRNO_NOTDIR, ERRNO_NOTCAPABLE]);
            let _ = wasi::fd_close(fd);
        }
        if let Some(fd) = c.works("with truncation", open(dir, "file", OFLAGS_TRUNC, BOTH, 0)) {
            c.is("it is empty", wasi::fd_filestat_get(fd).map(|stat| stat.size), 0);
            let _ = wasi::fd_close(fd);
        }
    }
}

unsafe fn paths(dir: Fd, c: &mut Checks) {
    unsafe {
        c.works("a folder", wasi::path_create_directory(dir, "dir"));
        c.works("in it", wasi::path_create_directory(dir, "dir/nested"));
        make(dir, "dir/nested/file", "x");
        for path in [
            "dir/nested/file",
            "dir/.//nested/../../dir/nested/../nested///./file",
            "./dir/nested/file",
            "dir//nested//file",
        ] {
            if let Some(fd) = c.works(path, open(dir, path, 0, READ, 0)) {
                let _ = wasi::fd_close(fd);
            }
        }
        let out = [ERRNO_PERM, ERRNO_NOTCAPABLE];
        for path in ["/dir/nested/file", "/", "..", "dir/nested/../../..", "dir/nested/../../../dir", "../x"] {
            c.refuses(path, open(dir, path, 0, READ, 0), &out);
        }
        c.refuses("nothing", open(dir, "", 0, READ, 0), &[ERRNO_NOENT]);
        c.refuses("a zero", open(dir, "dir/nested/file\0", 0, READ, 0), &[ERRNO_INVAL, ERRNO_ILSEQ, ERRNO_NOENT]);
        c.refuses("a file with a slash", open(dir, "dir/nested/file/", 0, READ, 0), &[ERRNO_NOTDIR, ERRNO_NOENT]);
        c.refuses("with many", open(dir, "dir/nested/file///", 0, READ, 0), &[ERRNO_NOTDIR, ERRNO_NOENT]);
        for path in ["dir/nested/", "dir/nested///", "dir/nested/.", "."] {
            if let Some(fd) = c.works(path, open(dir, path, OFLAGS_DIRECTORY, READ, 0)) {
                let _ = wasi::fd_close(fd);
            }
        }
        c.works("a folder with a slash", wasi::path_create_directory(dir, "dir2/"));
        c.refuses("again", wasi::path_create_directory(dir, "dir2/"), &[ERRNO_EXIST]);
        c.works("is removed with one", wasi::path_remove_directory(dir, "dir2/"));
        make(dir, "file", "x");
        c.refuses("a file is no folder", wasi::path_remove_directory(dir, "file"), &[ERRNO_NOTDIR]);
        c.refuses("with a slash", wasi::path_remove_directory(dir, "file/"), &[ERRNO_NOTDIR]);
        c.refuses("nor a file then", wasi::path_unlink_file(dir, "file/"), &[ERRNO_NOTDIR]);
        c.refuses("a folder is no file", wasi::path_unlink_file(dir, "dir"), &[ERRNO_ISDIR, ERRNO_PERM]);
        let slash = wasi::path_unlink_file(dir, "dir/");
        c.refuses("with a slash", slash, &[ERRNO_ISDIR, ERRNO_PERM, ERRNO_NOTDIR]);
        c.refuses("not empty", wasi::path_remove_directory(dir, "dir"), &[ERRNO_NOTEMPTY]);
        c.refuses("a file to a slash", wasi::path_rename(dir, "file", dir, "new/"), &[ERRNO_NOTDIR, ERRNO_NOENT]);
        c.works("a folder to a slash", wasi::path_rename(dir, "dir", dir, "new/"));
        c.works("and back", wasi::path_rename(dir, "new/", dir, "dir"));
        c.refuses("out", wasi::path_rename(dir, "file", dir, "../file"), &out);
        c.refuses("out with a folder", wasi::path_create_directory(dir, "../x"), &out);
        c.refuses("out with a link", wasi::path_symlink("file", dir, "../x"), &out);
        c.works("the file goes", wasi::path_unlink_file(dir, "file"));
        c.refuses("once", wasi::path_unlink_file(dir, "file"), &[ERRNO_NOENT]);
    }
}

unsafe fn links(dir: Fd, c: &mut Checks) {
    unsafe {
        make(dir, "file", "x");
        c.works("a folder", wasi::path_create_directory(dir, "folder"));
        c.works("a second name", wasi::path_link(dir, 0, "file", dir, "link"));
        let same = |one, two| {
            let stat = |path| wasi::path_filestat_get(dir, 0, path).map(|stat| (stat.dev, stat.ino, stat.nlink));
            stat(one).is_ok_and(|one| stat(two) == Ok(one) && one.2 == 2)
        };
        c.holds("is the same file", same("file", "link"));
        c.works("in a folder", wasi::path_link(dir, 0, "file", dir, "folder/link"));
        c.refuses("a taken name", wasi::path_link(dir, 0, "file", dir, "link"), &[ERRNO_EXIST]);
        c.refuses("of itself", wasi::path_link(dir, 0, "file", dir, "file"), &[ERRNO_EXIST]);
        c.refuses("of a folder", wasi::path_link(dir, 0, "folder", dir, "x"), &[ERRNO_PERM, wasi::ERRNO_ACCES]);
        c.refuses("of nothing", wasi::path_link(dir, 0, "nothing", dir, "x"), &[ERRNO_NOENT]);
        c.refuses("with a slash", wasi::path_link(dir, 0, "file", dir, "x/"), &[ERRNO_NOENT, ERRNO_NOTDIR]);
        c.refuses("of one", wasi::path_link(dir, 0, "file/", dir, "x"), &[ERRNO_NOENT, ERRNO_NOTDIR]);
        c.works("a link to nothing", wasi::path_symlink("nothing", dir, "symlink"));
        c.works("a name for that", wasi::path_link(dir, 0, "symlink", dir, "symlink2"));
        let mut text = [0; 7];
        let len = wasi::path_readlink(dir, "symlink2", text.as_mut_ptr(), text.len());
        c.is("which is a link", len, 7);
        c.equal("to the same", &text, b"nothing");
        let mut short = [0; 4];
        let len = wasi::path_readlink(dir, "symlink", short.as_mut_ptr(), short.len());
        c.is("read in part", len, 4);
        let follow = wasi::path_link(dir, LOOKUPFLAGS_SYMLINK_FOLLOW, "symlink", dir, "x");
        c.refuses("following is not for links", follow, &[ERRNO_INVAL, ERRNO_NOENT]);
        c.works("a link with a slash", wasi::path_symlink("folder", dir, "to-folder"));
        let slash = wasi::path_symlink("folder", dir, "x/");
        c.refuses("whose name has one", slash, &[ERRNO_NOENT, ERRNO_NOTDIR]);
        let taken = wasi::path_symlink("x", dir, "folder/");
        c.refuses("that is taken", taken, &[ERRNO_EXIST, ERRNO_NOTDIR]);
        c.refuses("to nothing", wasi::path_symlink("", dir, "x"), &[ERRNO_NOENT, ERRNO_INVAL]);
        c.refuses("to the root", wasi::path_symlink("/", dir, "x"), &[ERRNO_PERM, ERRNO_NOTCAPABLE]);
    }
}

unsafe fn stats(dir: Fd, c: &mut Checks) {
    unsafe {
        make(dir, "file", "text");
        c.works("a link", wasi::path_symlink("file", dir, "link"));
        let stat = |flags, path| wasi::path_filestat_get(dir, flags, path);
        c.is("its size", stat(0, "file").map(|stat| (stat.size, stat.filetype.raw(), stat.nlink)), (4, 4, 1));
        c.is("of a link", stat(0, "link").map(|stat| (stat.size, stat.filetype.raw())), (4, 7));
        c.is("followed", stat(LOOKUPFLAGS_SYMLINK_FOLLOW, "link").map(|stat| stat.filetype.raw()), 4);
        c.is("of a folder", stat(0, ".").map(|stat| stat.filetype.raw()), 3);
        c.refuses("of nothing", stat(0, "nothing"), &[ERRNO_NOENT]);
        let Some(fd) = c.works("open", open(dir, "file", 0, BOTH, 0)) else { return };
        let old = wasi::fd_filestat_get(fd);
        c.holds(
            "the same as by name",
            old.is_ok_and(|old| stat(0, "file").is_ok_and(|by_name| by_name.ino == old.ino)),
        );
        let set = wasi::FSTFLAGS_MTIM | wasi::FSTFLAGS_ATIM;
        c.works("times", wasi::fd_filestat_set_times(fd, 1_000_000_100, 2_000_000_200, set));
        c.is("are set", stat(0, "file").map(|stat| (stat.atim, stat.mtim)), (1_000_000_100, 2_000_000_200));
        let by_name =
            wasi::path_filestat_set_times(dir, LOOKUPFLAGS_SYMLINK_FOLLOW, "link", 5, 3_000, wasi::FSTFLAGS_MTIM);
        c.works("by name", by_name);
        c.is("one of them", stat(0, "file").map(|stat| (stat.atim, stat.mtim)), (1_000_000_100, 3_000));
        c.works("of a link", wasi::path_filestat_set_times(dir, 0, "link", 5, 7_000, set));
        c.is("itself", stat(0, "link").map(|stat| stat.mtim), 7_000);
        c.is("not what it points to", stat(0, "file").map(|stat| stat.mtim), 3_000);
        c.works("now", wasi::fd_filestat_set_times(fd, 0, 0, wasi::FSTFLAGS_MTIM_NOW));
        c.holds("is later", stat(0, "file").is_ok_and(|stat| stat.mtim > 1_577_836_800_000_000_000));
        let nonsense = wasi::FSTFLAGS_MTIM | wasi::FSTFLAGS_MTIM_NOW;
        c.refuses("both", wasi::fd_filestat_set_times(fd, 0, 0, nonsense), &[ERRNO_INVAL]);
        c.refuses("of nothing", wasi::fd_filestat_get(NO_FD), &[ERRNO_BADF]);
        let _ = wasi::fd_close(fd);
    }
}

unsafe fn advice(dir: Fd, c: &mut Checks) {
    unsafe {
        let Some(fd) = c.works("a file", open(dir, "file", OFLAGS_CREAT, BOTH, 0)) else { return };
        c.works("it is long", wasi::fd_filestat_set_size(fd, 100));
        for advice in
            [ADVICE_NORMAL, ADVICE_SEQUENTIAL, ADVICE_RANDOM, ADVICE_WILLNEED, ADVICE_DONTNEED, ADVICE_NOREUSE]
        {
            c.works("advice", wasi::fd_advise(fd, 10, 50, advice));
        }
        c.works("on all", wasi::fd_advise(fd, 0, 0, ADVICE_NORMAL));
        c.refuses("on nothing", wasi::fd_advise(NO_FD, 0, 0, ADVICE_NORMAL), &[ERRNO_BADF]);
        // The adapter between the two WASI versions does not have it: preview 2 dropped it.
        c.refuses("allocating", wasi::fd_allocate(fd, 0, 200), &[ERRNO_NOTSUP]);
        c.is("changes nothing", wasi::fd_filestat_get(fd).map(|stat| stat.size), 100);
        let _ = wasi::fd_close(fd);
    }
}

unsafe fn folders_as_files(dir: Fd, c: &mut Checks) {
    unsafe {
        let no = [ERRNO_BADF, ERRNO_ISDIR, ERRNO_NOTCAPABLE];
        c.refuses("reading", read(dir, 4), &no);
        c.refuses("writing", write(dir, b"x"), &no);
        let mut some = [0; 4];
        let into = [Iovec { buf: some.as_mut_ptr(), buf_len: 4 }];
        c.refuses("pread", wasi::fd_pread(dir, &into, 0), &no);
        let from = [Ciovec { buf: some.as_ptr(), buf_len: 4 }];
        c.refuses("pwrite", wasi::fd_pwrite(dir, &from, 0), &no);
        c.refuses("a seek", wasi::fd_seek(dir, 0, WHENCE_SET), &no);
        c.refuses("where it is", wasi::fd_tell(dir), &no);
        c.refuses("a size", wasi::fd_filestat_set_size(dir, 0), &no);
        c.refuses("advice", wasi::fd_advise(dir, 0, 0, ADVICE_NORMAL), &no);
        c.refuses("allocating", wasi::fd_allocate(dir, 0, 0), &[ERRNO_BADF, ERRNO_ISDIR, ERRNO_NOTSUP]);
        c.is("it is a folder", wasi::fd_fdstat_get(dir).map(|stat| stat.fs_filetype.raw()), 3);
        // The adapter between the two WASI versions flushes files only.
        c.refuses("it is flushed", wasi::fd_sync(dir), &no);
        c.refuses("its data", wasi::fd_datasync(dir), &no);
    }
}

fn timer(ms: u64, id: u16) -> Subscription {
    let clock = SubscriptionClock { id: CLOCKID_MONOTONIC, timeout: ms * 1_000_000, precision: 0, flags: 0 };
    Subscription { userdata: 0x1000, u: SubscriptionU { tag: 0, u: SubscriptionUU { clock } } }.named(id)
}

fn stream(fd: Fd, writes: bool, id: u16) -> Subscription {
    let access = SubscriptionFdReadwrite { file_descriptor: fd };
    let u = match writes {
        true => SubscriptionUU { fd_write: access },
        false => SubscriptionUU { fd_read: access },
    };
    Subscription { userdata: 0, u: SubscriptionU { tag: 1 + u8::from(writes), u } }.named(id)
}

trait Named {
    fn named(self, id: u16) -> Self;
}

impl Named for Subscription {
    fn named(mut self, id: u16) -> Self {
        self.userdata = u64::from(id);
        self
    }
}

unsafe fn poll(all: &[Subscription]) -> Result<Vec<(u64, Errno)>, Errno> {
    let mut events: Vec<Event> = Vec::with_capacity(all.len());
    unsafe {
        let happened = wasi::poll_oneoff(all.as_ptr(), events.as_mut_ptr(), all.len())?;
        events.set_len(happened);
    }
    Ok(events.iter().map(|event| (event.userdata, event.error)).collect())
}

unsafe fn polls(dir: Fd, c: &mut Checks) {
    unsafe {
        let ok = wasi::ERRNO_SUCCESS;
        c.refuses("nothing", wasi::poll_oneoff(std::ptr::null(), std::ptr::null_mut(), 0), &[ERRNO_INVAL]);
        c.is("a timer", poll(&[timer(2, 7)]), vec![(7, ok)]);
        c.is("the earlier one", poll(&[timer(60_000, 1), timer(1, 2)]), vec![(2, ok)]);
        c.is("output is ready", poll(&[stream(1, true, 3)]), vec![(3, ok)]);
        c.is("as is standard error", poll(&[stream(2, true, 4)]), vec![(4, ok)]);
        c.is("and input", poll(&[stream(0, false, 5)]), vec![(5, ok)]);
        c.is("before a timer", poll(&[timer(60_000, 1), stream(1, true, 3)]), vec![(3, ok)]);
        c.is("both", poll(&[stream(1, true, 3), stream(2, true, 4)]).map(|all| all.len()), 2);
        // The adapter lets the whole call fail, not the one event.
        c.refuses("what is not open", poll(&[stream(NO_FD, false, 6)]), &[ERRNO_BADF]);
        make(dir, "file", "text");
        if let Some(fd) = c.works("a file", open(dir, "file", 0, BOTH, 0)) {
            c.is("is ready", poll(&[stream(fd, false, 8)]), vec![(8, ok)]);
            c.is("to be written", poll(&[stream(fd, true, 9)]), vec![(9, ok)]);
            let _ = wasi::fd_close(fd);
        }
    }
}

unsafe fn numbers(_: Fd, c: &mut Checks) {
    unsafe {
        c.works("giving way", wasi::sched_yield());
        for clock in [CLOCKID_MONOTONIC, CLOCKID_REALTIME] {
            c.holds("a clock", wasi::clock_time_get(clock, 1).is_ok_and(|time| time > 0));
            c.holds("is so fine", wasi::clock_res_get(clock).is_ok_and(|fine| fine > 0));
        }
        let other = wasi::clock_time_get(wasi::CLOCKID_PROCESS_CPUTIME_ID, 0);
        c.refuses("there is no other", other, &[ERRNO_BADF, ERRNO_INVAL, ERRNO_NOTSUP]);
        for len in [0, 1, 1024, 65_536, 100_000, 4 << 20] {
            let mut bytes = vec![0_u8; len];
            c.works("random numbers", wasi::random_get(bytes.as_mut_ptr(), len));
            c.holds("to the last", len < 1000 || bytes[len - 100..].iter().any(|byte| *byte != 0));
        }
    }
}

unsafe fn standard_streams(_: Fd, c: &mut Checks) {
    unsafe {
        for fd in 0..3 {
            c.works("a standard stream", wasi::fd_fdstat_get(fd));
            c.holds("is no terminal", wasi::fd_fdstat_get(fd).is_ok_and(|stat| stat.fs_filetype.raw() != 2));
            c.works("has a state", wasi::fd_filestat_get(fd));
            c.refuses("is no folder", wasi::fd_prestat_get(fd), &[ERRNO_BADF, ERRNO_NOTDIR]);
            c.refuses("nothing is in it", open(fd, "x", 0, READ, 0), &[ERRNO_BADF, ERRNO_NOTDIR, ERRNO_NOTCAPABLE]);
            c.refuses("has no place", wasi::fd_tell(fd), &[ERRNO_BADF, wasi::ERRNO_SPIPE, ERRNO_NOTCAPABLE]);
        }
        c.refuses("input is not written", write(0, b"x"), &[ERRNO_BADF, ERRNO_NOTCAPABLE]);
        c.refuses("output is not read", read(1, 1), &[ERRNO_BADF, ERRNO_NOTCAPABLE]);
        c.refuses("it is no socket", wasi::sock_shutdown(1, 1), &[wasi::ERRNO_NOTSOCK, ERRNO_NOTSUP, ERRNO_BADF]);
    }
}

/// Comes last: it closes what the others need.
unsafe fn descriptors(dir: Fd, c: &mut Checks) {
    unsafe {
        let open_two =
            || Some((open(dir, "a", OFLAGS_CREAT, BOTH, 0).ok()?, open(dir, "b", OFLAGS_CREAT, BOTH, 0).ok()?));
        let Some((one, two)) = open_two() else { return c.holds("two files", false) };
        c.is("one is written", write(one, b"one"), 3);
        c.works("it takes the other's number", wasi::fd_renumber(one, two));
        c.refuses("and loses its own", wasi::fd_tell(one), &[ERRNO_BADF]);
        c.is("it is where it was", wasi::fd_tell(two), 3);
        c.refuses("from nothing", wasi::fd_renumber(NO_FD, two), &[ERRNO_BADF]);
        c.works("output gets another number", wasi::fd_renumber(1, two));
        c.is("and works there", write(two, b"through another number\n"), 23);
        c.refuses("not here any more", write(1, b"x"), &[ERRNO_BADF]);
        c.refuses("a number that is not open is taken by nobody", wasi::fd_renumber(two, 1), &[ERRNO_BADF]);
        c.works("input is closed", wasi::fd_close(0));
        c.refuses("once", wasi::fd_close(0), &[ERRNO_BADF]);
        let Some(inner) = c.works("a folder", open(dir, ".", OFLAGS_DIRECTORY, READ, 0)) else { return };
        c.refuses("is no preopen", wasi::fd_prestat_get(inner), &[ERRNO_BADF]);
        c.works("what was granted is closed", wasi::fd_close(dir));
        c.refuses("nothing is in it", open(dir, "a", 0, READ, 0), &[ERRNO_BADF]);
        c.refuses("it is no preopen", wasi::fd_prestat_get(dir), &[ERRNO_BADF]);
        c.works("but here", open(inner, "a", 0, READ, 0));
    }
}
