use kvgear::Runtime;
use std::cell::Cell;
use std::rc::Rc;

fn case(runtime: &Runtime) {
    let lines = Rc::new(Cell::new(0));
    runtime.set_log(move |_, _| lines.set(1)).unwrap(); //~ E0277
}

fn main() {
    drop(case);
}
