"""HTTP service between clients and an untrusted model server: labels of purified pictures, with a record of each.

``config`` says what there is; ``models`` joins a classifier, its defense and a ``scheduler`` that purifies the pictures
of concurrent requests together; ``service`` takes pictures and returns decisions within ``limits``; ``decisions``
keeps them; ``routes`` speak HTTP; ``server`` runs it all.
"""
