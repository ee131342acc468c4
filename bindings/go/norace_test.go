//go:build !race

package kvgear

const raceEnabled = false
