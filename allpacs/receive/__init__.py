"""The association side: Storage SCP, and the pure decision whether an instance is admitted."""
