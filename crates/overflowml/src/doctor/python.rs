//! Which Python there is: found on the path, asked once where its packages are.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::packages::Installed;

/// A cold start from a slow disk takes about a second.
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_READ: u64 = 64 << 10;

/// Asks nothing of any installed package.
const QUESTION: &str = "\
import sys
print('version', '.'.join(map(str, sys.version_info[:3])))
for p in sys.path[1:]:
    if p.rstrip('/\\\\').endswith(('site-packages', 'dist-packages')): print('packages', p)
";

/// The Python that a user's commands would start.
#[derive(Clone, Debug)]
pub(super) enum Python {
    /// None on the path.
    Missing,
    /// One is there, but it does not answer.
    Failed { executable: PathBuf, reason: String },
    /// It answered.
    Found { executable: PathBuf, answer: PythonAnswer, installed: Installed },
}

/// What an interpreter tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PythonAnswer {
    /// Major, minor, patch.
    pub(super) version: (u32, u32, u32),
    /// Folders of installed packages, in the order in which they are searched.
    pub(super) folders: Vec<PathBuf>,
}

/// Finds and asks.
pub(super) fn probe() -> Python {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let homes = ["VIRTUAL_ENV", "CONDA_PREFIX"].map(|name| set(name).map(PathBuf::from));
    let path = set("PATH").unwrap_or_default();
    let Some(executable) = candidates(&homes, &path).into_iter().find(|path| path.is_file()) else {
        return Python::Missing;
    };
    match ask(&executable, PATIENCE) {
        Ok(answer) => {
            let installed = Installed::read(&answer.folders);
            Python::Found { executable, answer, installed }
        }
        Err(reason) => Python::Failed { executable, reason },
    }
}

/// Where an interpreter may be, best first: the active environment, then the path.
fn candidates(homes: &[Option<PathBuf>], path: &OsStr) -> Vec<PathBuf> {
    let (folder, names): (&str, &[&str]) = if cfg!(windows) {
        ("Scripts", &["python.exe", "python3.exe"])
    } else {
        ("bin", &["python3", "python"])
    };
    let of_home = |home: &PathBuf| vec![home.join(folder), home.clone()];
    let environments = homes.iter().flatten().flat_map(of_home);
    // A relative folder would mean another program in every working folder; Windows' store puts
    // stand-ins into its own.
    let usable = |folder: &PathBuf| {
        folder.is_absolute() && !folder.components().any(|part| part.as_os_str() == "WindowsApps")
    };
    let folders = environments.chain(std::env::split_paths(path)).filter(usable);
    folders.flat_map(|folder| names.iter().map(move |name| folder.join(name))).collect()
}

/// Starts `executable`, which is given up after a moment. The reason is a sentence's end.
fn ask(executable: &Path, patience: Duration) -> Result<PythonAnswer, String> {
    let mut command = Command::new(executable);
    command.args(["-c", QUESTION]).env("PYTHONSAFEPATH", "1");
    // Python imports from the working folder first; its own is as safe as itself.
    if let Some(folder) = executable.parent() {
        command.current_dir(folder);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("cannot be started: {error}"))?;
    let Some(stdout) = child.stdout.take() else {
        return Err("has no output".to_owned());
    };
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = stdout.take(MOST_READ).read_to_end(&mut text).map(|_| text);
        // Nobody listens any more if it took too long.
        let _ = sender.send(read);
    });
    let answer = receiver.recv_timeout(patience);
    // Ignored: it may have ended.
    let _ = child.kill();
    std::thread::spawn(move || child.wait());
    match answer {
        Ok(Ok(text)) => parse(&String::from_utf8_lossy(&text))
            .ok_or_else(|| "does not answer like Python 3".to_owned()),
        Ok(Err(error)) => Err(format!("cannot be read: {error}")),
        Err(_) => Err(format!("gave no answer within {} seconds", patience.as_secs())),
    }
}

fn parse(text: &str) -> Option<PythonAnswer> {
    let mut version = None;
    let mut folders = Vec::new();
    for line in text.lines() {
        match line.trim_end().split_once(' ') {
            Some(("version", numbers)) => version = parse_version(numbers),
            Some(("packages", folder)) => folders.push(PathBuf::from(folder)),
            _ => {}
        }
    }
    Some(PythonAnswer { version: version?, folders })
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_version_and_folders() {
        let answer =
            "version 3.11.7\npackages /home/u/my env/lib/python3.11/site-packages\r\nnoise\n";
        assert_eq!(
            parse(answer),
            Some(PythonAnswer {
                version: (3, 11, 7),
                folders: vec!["/home/u/my env/lib/python3.11/site-packages".into()],
            })
        );
        assert_eq!(parse("version 2.7\n"), None);
        assert_eq!(parse("Traceback (most recent call last):\n"), None);
    }

    #[cfg(unix)]
    #[test]
    fn the_active_environment_comes_before_the_path_and_relative_folders_never() {
        let homes = [Some("/venv".into()), None];
        let found = candidates(&homes, OsStr::new("bin:/usr/bin:.:/mnt/c/WindowsApps"));
        let expected = ["/venv/bin/python3", "/venv/bin/python", "/venv/python3", "/venv/python"];
        let expected = expected.into_iter().chain(["/usr/bin/python3", "/usr/bin/python"]);
        assert_eq!(found, expected.map(PathBuf::from).collect::<Vec<_>>());
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_is_not_python_is_a_reason() {
        let reason = ask(Path::new("/bin/true"), PATIENCE).unwrap_err();
        assert!(reason.contains("does not answer"), "{reason}");
        let reason = ask(Path::new("/no/such/python"), PATIENCE).unwrap_err();
        assert!(reason.contains("cannot be started"), "{reason}");
    }
    #[cfg(unix)]
    #[test]
    fn a_program_that_hangs_is_given_up() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("python3");
        // It waits for a pipe that nobody writes to, for as long as it is let.
        std::fs::write(&script, "#!/bin/sh\nmkfifo pipe && read line < pipe\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let reason = ask(&script, Duration::from_millis(50)).unwrap_err();
        assert!(reason.contains("no answer"), "{reason}");
    }
}
