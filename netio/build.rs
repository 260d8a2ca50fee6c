//! Compiles the egress guard and the fast path with clang. Without clang the crate still builds, without them:
//! `guard::available()` is then false, the workers' own check remains, and the node's status says so.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(qnat_bpf)");
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=QNAT_CLANG");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("qnat.o");
    let clang = std::env::var("QNAT_CLANG").unwrap_or_else(|_| "clang".to_owned());
    // -g for the BTF that the maps are described in; -mcpu=v2 runs everywhere that has tc egress and boot time.
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v2", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c", "bpf/qnat.c", "-o"])
        .arg(&out)
        .status();
    match status {
        Ok(status) if status.success() => println!("cargo::rustc-cfg=qnat_bpf"),
        Ok(status) => panic!("{clang} cannot compile bpf/qnat.c: {status}"),
        Err(error) => println!("cargo::warning=no BPF egress guard and no fast path in this build: {clang}: {error}"),
    }
}
