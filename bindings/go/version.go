package kvgear

import (
	"fmt"
	"sync"

	"kvgear.org/kvgear/internal/raw"
)

// Version returns the version of the library that is loaded.
//
// From kvgear.h, kvg_version_string:
//
//	Returns "major.minor.patch", a static string.
func Version() string { return raw.KvgVersionString() }

// ABI returns the oldest and the newest version of the binary interface that the loaded library serves.
//
// From kvgear.h, kvg_abi_version:
//
//	Returns the newest ABI version the library serves.
//
// From kvgear.h, kvg_abi_min:
//
//	Returns the oldest ABI version the library still serves.
func ABI() (oldest, newest uint32) { return raw.KvgAbiMin(), raw.KvgAbiVersion() }

// checkABI is asked before a struct or handle goes to the library for the first time.
var checkABI = sync.OnceValue(func() error {
	oldest, newest := ABI()
	return abiError(raw.KVG_ABI_VERSION, oldest, newest, Version())
})

func abiError(own, oldest, newest uint32, version string) error {
	var advice string
	switch {
	case own > newest:
		advice = "install a newer libkvgear"
	case own < oldest:
		advice = "use a newer version of this package"
	default:
		return nil
	}
	return &Error{Op: "load", Status: ErrUnsupported, Message: fmt.Sprintf("libkvgear %s serves ABI versions %d to %d, "+
		"and this package needs %d: %s", version, oldest, newest, own, advice)}
}
