"""Pictures of results: functions of arrays, which run no network and read no file."""
