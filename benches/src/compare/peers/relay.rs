//! The controls: the blind relay, with and without `splice`, and what else takes its arguments, such as the proxies made
//! of bare HTTP libraries.

use anyhow::Result;

use super::{Launch, Ready, Setup};

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let mut args = vec!["--listen".to_owned(), setup.listen()];
    for backend in setup.backends() {
        args.extend(["--upstream".to_owned(), backend.to_string()]);
    }
    if setup.variant == "splice" {
        args.push("--splice".to_owned());
    }
    Ok(Launch::new(args, Ready::Accepts(setup.port)))
}
