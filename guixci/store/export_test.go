package store

// ExportNAR writes an archive through the daemon, as where the store is not at hand.
var ExportNAR = (*Pool).exportNAR
