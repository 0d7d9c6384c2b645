//! HTTP with patience: what breaks off is tried again from where it broke.

use std::io::{self, Read};
use std::time::Duration;

use overflowml_types::Bytes;
use ureq::Agent;
use ureq::http::{Response, StatusCode};

use super::HubError;
use super::cache::Sink;
use super::settings::Settings;

/// How often in a row nothing may arrive.
const ATTEMPTS: u32 = 5;

/// The first pause between attempts; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// One request asks for this much at most, so that a connection that stands still is noticed.
pub(super) const PIECE: Bytes = Bytes::mib(64);

/// The longest that one request may take; what has arrived by then counts.
const PATIENCE: Duration = Duration::from_secs(300);

/// The longest listing that is read.
const LISTING: u64 = 64 << 20;

/// Asks one hub with one account.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("overflowml/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_recv_body(Some(PATIENCE))
            .build()
            .into();
        Self { agent, endpoint: settings.endpoint.clone(), token: settings.token.clone() }
    }

    /// The listing of model `id` at `revision`, as JSON; with the address it came from.
    pub(super) fn listing(&self, id: &str, revision: &str) -> Result<(Vec<u8>, String), HubError> {
        let revision_path = encode(revision, false);
        let url = format!("{}/api/models/{id}/revision/{revision_path}?blobs=true", self.endpoint);
        let json = self.persist(&url, || {
            let response = self.ask(&url, None)?;
            match response.status() {
                StatusCode::NOT_FOUND => Err(Failure::Final(self.not_found(id, revision))),
                // The hub answers 401 for models that do not exist, too, if no token is sent.
                StatusCode::UNAUTHORIZED if self.token.is_none() => {
                    Err(Failure::Final(self.not_found(id, revision)))
                }
                status => {
                    self.check(status, id, &url, &response)?;
                    let mut json = Vec::new();
                    response.into_body().into_reader().take(LISTING).read_to_end(&mut json)?;
                    Ok(json)
                }
            }
        })?;
        Ok((json, url))
    }

    /// Passes bytes `from..to` of a file to `sink`, in order, each once.
    ///
    /// # Errors
    /// [`HubError::Network`] if nothing arrives any more; an error of `sink` ends it at once.
    pub(super) fn read_range(
        &self,
        id: &str,
        commit: &str,
        path: &str,
        (from, to): (u64, u64),
        sink: &mut Sink<'_>,
    ) -> Result<(), HubError> {
        let path = encode(path, true);
        let url = format!("{}/{id}/resolve/{commit}/{path}", self.endpoint);
        let mut at = from;
        while at < to {
            let before = at;
            self.persist(&url, || match self.piece(id, &url, &mut at, to, sink) {
                // Something has arrived: the count of attempts begins anew.
                Err(Failure::Again { pause, .. }) if at > before => {
                    std::thread::sleep(pause.unwrap_or(PAUSE).min(LONGEST_PAUSE));
                    Ok(())
                }
                other => other,
            })?;
        }
        Ok(())
    }

    /// One request from `at` on, for a piece of what is before `to`; `at` follows what has been passed on.
    fn piece(
        &self,
        id: &str,
        url: &str,
        at: &mut u64,
        to: u64,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let end = to.min(at.saturating_add(PIECE.get()));
        let response = self.ask(url, Some((*at, end)))?;
        self.check(response.status(), id, url, &response)?;
        // A server that knows no ranges sends everything from the start.
        let ranged = response.status() == StatusCode::PARTIAL_CONTENT;
        let (end, mut skip) = if ranged { (end, 0) } else { (to, *at) };
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 256 << 10];
        while *at < end {
            let count = body.read(&mut buffer)?;
            if count == 0 {
                return Err(Failure::again(format!("the connection ended after {} bytes", *at)));
            }
            let mut bytes = &buffer[..count];
            let skipped = bytes.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            skip -= skipped as u64;
            bytes = &bytes[skipped..];
            let left = usize::try_from(end - *at).unwrap_or(usize::MAX);
            let wanted = bytes.len().min(left);
            sink(&bytes[..wanted]).map_err(Failure::Final)?;
            *at += wanted as u64;
        }
        Ok(())
    }

    fn ask(&self, url: &str, range: Option<(u64, u64)>) -> Result<Response<ureq::Body>, Failure> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some((from, to)) = range {
            request = request.header("range", format!("bytes={from}-{}", to - 1));
        }
        request.call().map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Failure::Final(HubError::Network { url: url.to_owned(), reason: error.to_string() })
            }
            error => Failure::again(error.to_string()),
        })
    }

    /// Success, worth another attempt, or final.
    fn check(
        &self,
        status: StatusCode,
        id: &str,
        url: &str,
        response: &Response<ureq::Body>,
    ) -> Result<(), Failure> {
        if status.is_success() {
            return Ok(());
        }
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            let with_token = self.token.is_some();
            return Err(Failure::Final(HubError::Denied { id: id.to_owned(), with_token }));
        }
        let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let pause = header.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let reason = format!("the server answers {status}");
        let passing = status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT;
        if passing {
            Err(Failure::Again { reason, pause })
        } else {
            Err(Failure::Final(HubError::Network { url: url.to_owned(), reason }))
        }
    }

    fn not_found(&self, id: &str, revision: &str) -> HubError {
        HubError::NotFound {
            endpoint: self.endpoint.clone(),
            id: id.to_owned(),
            revision: revision.to_owned(),
        }
    }

    /// Tries until it works, is hopeless, or has failed [`ATTEMPTS`] times.
    fn persist<T>(
        &self,
        url: &str,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut failed = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { reason, pause }) => {
                    failed += 1;
                    if failed >= ATTEMPTS {
                        let reason = format!("{reason} ({failed} attempts)");
                        return Err(HubError::Network { url: url.to_owned(), reason });
                    }
                    let pause = pause.unwrap_or(PAUSE * 2_u32.pow(failed - 1));
                    std::thread::sleep(pause.min(LONGEST_PAUSE));
                }
            }
        }
    }
}

/// Whether trying again can help.
enum Failure {
    Final(HubError),
    Again { reason: String, pause: Option<Duration> },
}

impl Failure {
    fn again(reason: String) -> Self {
        Self::Again { reason, pause: None }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::again(error.to_string())
    }
}

/// Percent-encodes what may not stand in a URL's path; `slashes` may.
fn encode(text: &str, slashes: bool) -> String {
    let plain = |byte: u8| {
        byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (slashes && byte == b'/')
    };
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_revisions_are_encoded_as_the_hub_wants_them() {
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encode("vae/a b+c.json", true), "vae/a%20b%2Bc.json");
        assert_eq!(encode("ü", true), "%C3%BC");
    }
}
