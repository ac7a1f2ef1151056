//! `sarsen completion SHELL`: what the shell needs to complete our command line.
use crate::failure::Outcome;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Prints a completion script for a shell
#[derive(Debug, Args)]
pub struct Completion {
    /// Which shell, e.g. `source <(sarsen completion bash)`
    #[arg(value_enum)]
    shell: Shell,
}

impl Completion {
    /// Prints it.
    pub fn run<C: CommandFactory>(self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut C::command(), "sarsen", &mut script);
        crate::output::line_out(&String::from_utf8_lossy(&script))
    }
}
