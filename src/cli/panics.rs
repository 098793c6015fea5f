//! What a panic may say: where it was, and nothing of what it was about. Messages can hold prompts and keys.

/// Replaces the standard hook, which prints the message.
pub(super) fn say_where_alone() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        match panic.location() {
            Some(at) => {
                eprintln!("a bug: thread {name} panicked at {}:{}:{}", at.file(), at.line(), at.column())
            }
            None => eprintln!("a bug: thread {name} panicked"),
        }
    }));
}
