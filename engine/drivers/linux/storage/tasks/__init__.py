"""What worker processes do, a module a subject; each public function is one task of worker.py."""
