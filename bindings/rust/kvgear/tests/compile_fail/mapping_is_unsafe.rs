use kvgear::LoadOptions;

fn main() {
    let _ = LoadOptions::new().map(); //~ E0133
    let _ = LoadOptions::new().map_trusted(); //~ E0133
}
