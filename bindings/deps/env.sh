# For scripts that build or test the bindings: puts toolchains on the PATH that are not there yet, be they of install.sh beside this file or
# where their own installers leave them. Wants `root`, the top of the tree.
for folder in "$HOME/.cargo/bin" /usr/local/go/bin "${KVGEAR_DEPS_DIR:-$root/.deps}/go/bin"; do
  case ":$PATH:" in *":$folder:"*) ;; *) if [ -d "$folder" ]; then PATH=$PATH:$folder; fi ;; esac
done
# A Go that install.sh fetched is there because the system's is missing or too old.
if [ -x "${KVGEAR_DEPS_DIR:-$root/.deps}/go/bin/go" ]; then PATH=${KVGEAR_DEPS_DIR:-$root/.deps}/go/bin:$PATH; fi
export PATH

# at_least VERSION WANTED: is it that version or a newer one?
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -1)" = "$2" ]; }

# missing LANGUAGE: says what of its toolchain is missing here; nothing if all of it is there.
missing() {
  local version
  case $1 in
    go)
      version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null | sed 's/^go//')
      [ -n "$version" ] || { echo 'Go is not installed'; return; }
      at_least "$version" 1.21 || echo "Go is $version; 1.21 or newer is needed" ;;
    rust)
      version=$(cargo --version 2>/dev/null | sed 's/^cargo \([0-9.]*\).*/\1/')
      [ -n "$version" ] || { echo 'Rust (cargo) is not installed'; return; }
      at_least "$version" 1.75 || echo "cargo is $version; 1.75 or newer is needed" ;;
    java)
      version=$(javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p')
      [ -n "$version" ] || { echo 'a JDK (javac) is not installed'; return; }
      if [ "$version" -lt 17 ]; then echo "javac is $version; 17 or newer is needed"; return; fi
      command -v mvn >/dev/null || echo 'Maven (mvn) is not installed' ;;
    swig)
      version=$(swig -version 2>/dev/null | sed -n 's/^SWIG Version //p')
      [ -n "$version" ] || { echo 'SWIG is not installed'; return; }
      [ "$version" = 4.1.0 ] || echo "SWIG is $version; what is checked in was made by 4.1.0, and other versions write other text" ;;
    *) echo "nothing is known of '$1'" ;;
  esac
}
