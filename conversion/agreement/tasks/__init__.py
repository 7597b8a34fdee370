"""The agreement of the fine-tuning tasks: learning and answers, each judged against an oracle that shares no code."""
