"""Mutual TLS between programs that know each other's keys, or trust one private CA.

Nothing here knows of tasks: ``identity`` is one's own key and certificate, ``trust`` the file of those whose keys are
known, ``judgement`` decides who a certificate belongs to, ``credentials`` keeps the files' contents up to date, and
``endpoints`` puts all of it around any endpoint of Twisted's.
"""
