//! Compiles the generator and the sink with clang; without clang they say that they are not there.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(qnat_bpf)");
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=QNAT_CLANG");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("offer.o");
    let clang = std::env::var("QNAT_CLANG").unwrap_or_else(|_| "clang".to_owned());
    let arguments =
        ["-target", "bpf", "-mcpu=v2", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c", "bpf/offer.c", "-o"];
    match Command::new(&clang).args(arguments).arg(&out).status() {
        Ok(status) if status.success() => println!("cargo::rustc-cfg=qnat_bpf"),
        Ok(status) => panic!("{clang} cannot compile bpf/offer.c: {status}"),
        Err(error) => println!("cargo::warning=no generator of small datagrams in this build: {clang}: {error}"),
    }
}
