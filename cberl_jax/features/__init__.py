"""Features of utterances: text by a sentence encoder, audio by openSMILE, timing by arithmetic."""
