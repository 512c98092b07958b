//! How the binary that ships is linked: `dist/cc` puts the functions that roles run side by side.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder where rustc has its own lld for `cc -fuse-ld=lld`.
fn lld() -> PathBuf {
    let said = |arguments: &[&str]| {
        String::from_utf8(Command::new("rustc").args(arguments).output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let sysroot = said(&["--print", "sysroot"]);
    let host = said(&["--print", "host-tuple"]);
    Path::new(&sysroot).join("lib/rustlib").join(host).join("bin/gcc-ld")
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Keys of symbols, as `dist/functions.txt` has them.
fn keys(symbols: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("symbols");
    fs::write(&list, symbols).unwrap();
    let input = fs::File::open(&list).unwrap();
    let output = Command::new(root().join("dist/cc")).arg("--keys").stdin(input).output().unwrap();
    succeeded(output).lines().map(str::to_owned).collect()
}

/// A program of which each function has a section, as rustc's have, in an empty folder.
fn compiled(folder: &Path) -> PathBuf {
    let (source, object) = (folder.join("program.c"), folder.join("a program.o"));
    fs::write(&source, "int one(void){return 1;} int two(void){return 2;} int _RNvCs1a_1b3six(void){return 6;} int main(void){return one()+two()-3+_RNvCs1a_1b3six()-6;}")
        .unwrap();
    let made =
        Command::new("cc").args(["-O0", "-ffunction-sections", "-c"]).arg(&source).arg("-o").arg(&object).output();
    succeeded(made.unwrap());
    object
}

/// The functions of a program in the order of their addresses.
fn order(program: &Path) -> Vec<String> {
    let listed = succeeded(Command::new("nm").args(["-n", "--format=posix"]).arg(program).output().unwrap());
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| ["one", "two", "main", "_RNvCs1a_1b3six"].contains(name)).map(str::to_owned).collect()
}

#[test]
fn functions_that_run_are_linked_side_by_side_and_in_the_order_of_their_list() {
    let folder = tempfile::tempdir().unwrap();
    let (object, list, program) =
        (compiled(folder.path()), folder.path().join("list"), folder.path().join("the program"));
    // Of another build: another hash of the crate. One that is gone is no error.
    fs::write(&list, "# by hand\nmain\n_RNvC_1b3six\n_RNvC_1b4gone\ntwo\n").unwrap();
    let link = |more: &[String]| {
        let mut linker = Command::new(root().join("dist/cc"));
        linker.arg(&object).arg("-o").arg(&program).arg(format!("--order={}:4711", list.display())).args(more);
        succeeded(linker.output().unwrap());
        succeeded(Command::new(&program).output().unwrap());
        order(&program)
    };
    let lld = lld();
    if lld.is_dir() {
        assert_eq!(
            link(&["-fuse-ld=lld".to_owned(), format!("-B{}", lld.display())]),
            ["main", "_RNvCs1a_1b3six", "two", "one"]
        );
        let said = fs::read_to_string(folder.path().join("order")).unwrap();
        assert!(said.starts_with("# 1 of the 2 functions that run were found\n"), "{said}");
    } else {
        println!("NOT CHECKED: this toolchain has no lld at {}", lld.display());
        assert_ne!(std::env::consts::ARCH, "x86_64", "rustc links with its own lld there");
    }
    // Any other linker gets what it would have got.
    assert_eq!(link(&[]), ["one", "two", "_RNvCs1a_1b3six", "main"]);
}

#[test]
fn an_error_of_the_linker_is_an_error_of_the_build() {
    let folder = tempfile::tempdir().unwrap();
    let mut linker = Command::new(root().join("dist/cc"));
    let output = linker.args(["/nowhere/is.o", "-o"]).arg(folder.path().join("out")).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/is.o"));
}

#[test]
fn a_key_is_the_same_in_every_build() {
    let builds = "_RNvMs_NtCsgEmfK2I1SDS_4core3fmtINtB4_3VecNtCs7_5alloc6StringE4pushCs4a_5hyper\n\
                  _RNvMs_NtCs19_4core3fmtINtB1a_3VecNtCsAbC_5alloc6StringE4pushCsZZ_4axum.1234\n\
                  malloc\n\
                  _RNvNtCsZZ_4axum5serve3run\n\
                  _RNvNtCs1_4axum5serve4stop\n\
                  memcpy.avx\n";
    let keys = keys(builds);
    assert_eq!(keys[0], keys[1]);
    assert!(keys[0].contains("4core3fmt") && keys[0].contains("6String"), "{}", keys[0]);
    assert!(keys[0].ends_with("4push"), "whose instance it is makes no difference: {}", keys[0]);
    assert_eq!(keys[2..], ["malloc", "_RNvNtC_4axum5serve3run", "_RNvNtC_4axum5serve4stop", "memcpy.avx"]);
}

#[test]
fn the_list_is_of_keys_and_names_each_once() {
    let list = fs::read_to_string(root().join("dist/functions.txt")).unwrap();
    let names: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(names.len() > 1_000, "{}", names.len());
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let keys = keys(&names.join("\n"));
    let others: Vec<_> = names.iter().zip(&keys).filter(|(name, key)| name != key).take(3).collect();
    assert!(others.is_empty() && keys.len() == names.len(), "no keys: {others:?}");
    // A role whose watching failed would have none of its own.
    for role in ["# agent\n", "# controller\n", "# webhook\n", "# agent controller webhook\n"] {
        assert!(list.contains(role), "{role}");
    }
}
