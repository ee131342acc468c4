module kvgear.org/example

go 1.21

require kvgear.org/kvgear v0.0.0

replace kvgear.org/kvgear => ../../bindings/go
