//go:build race

package kvgear

const raceEnabled = true
