//! `latebind certs`: an authority and a server certificate for development.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use time::OffsetDateTime;

use super::Exit;
use super::duration::duration;
use crate::tls::Authority;

/// Write an authority and a server certificate for development: ca.crt, tls.crt and tls.key.
///
/// The authority's key is thrown away, so nothing else can be signed by it. In a cluster the controller or cert-manager
/// makes certificates and renews them; these end after --life, and nobody renews them.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  latebind certs --out certs
  latebind certs --out certs --name latebind-webhook.latebind-system.svc --name 192.0.2.7
  latebind run --role webhook --listen 192.0.2.7:9443 --tls-cert certs/tls.crt --tls-key certs/tls.key")]
pub struct CertsArgs {
    /// Directory to write to; it is made if it is missing.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    out: PathBuf,

    /// A DNS name or IP address of the server; repeat it for several.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values = ["localhost", "127.0.0.1"])]
    name: Vec<String>,

    /// For how long they are good.
    #[arg(long, value_name = "TIME", default_value = "2160h", value_parser = duration)]
    life: Duration,
}

/// Writes them.
///
/// # Errors
/// When a name cannot stand in a certificate, or a file cannot be written.
pub fn run(args: &CertsArgs) -> anyhow::Result<Exit> {
    let life = time::Duration::try_from(args.life).context("--life is too long")?;
    let now = OffsetDateTime::now_utc();
    let authority = Authority::with_life(&args.name, life, now)?;
    let pair = authority.issue_pem(life, now + life, now)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    for (name, text, mode) in
        [("ca.crt", authority.pem(), 0o644), ("tls.crt", &pair.chain, 0o644), ("tls.key", &pair.key, 0o600)]
    {
        let path = args.out.join(name);
        write(&path, text, mode).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(anstream::stdout(), "{}", path.display())?;
    }
    Ok(Exit::Clean)
}

fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    // A file that is there keeps its mode when it is opened, and a key must not be readable by others for a moment.
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    readable_by(&mut options, mode);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(unix)]
fn readable_by(options: &mut std::fs::OpenOptions, mode: u32) {
    std::os::unix::fs::OpenOptionsExt::mode(options, mode);
}

/// Elsewhere a new file belongs to whoever may read its folder.
#[cfg(not(unix))]
fn readable_by(_options: &mut std::fs::OpenOptions, _mode: u32) {}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::tls::PairFiles;

    #[test]
    fn what_is_written_serves_and_can_be_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new");
        let args = CertsArgs { out: out.clone(), name: vec!["localhost".to_owned()], life: Duration::from_secs(3600) };
        for _ in 0..2 {
            run(&args).unwrap();
            PairFiles { certificate: out.join("tls.crt"), key: out.join("tls.key") }.load().unwrap();
        }
        let mode = std::fs::metadata(out.join("tls.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
